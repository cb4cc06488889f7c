// SPDX-License-Identifier: MIT
// A filesystem of one file, which lies in a string: all that tarn needs under libfuse's low-level interface.
//   smallest_fuse MOUNTPOINT      serves till it is unmounted, or a signal ends it
//   smallest_fuse                 mounts itself, writes the file, reads it again, and unmounts

#include <tarn/fuse_async.hpp>
#include <tarn/fuse_loop.hpp>
#include <tarn/tarn.hpp>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

using Traits = tarn::DefaultTraits;

struct StringStore {  // as in smallest.cpp
  std::mutex mutex;
  std::string bytes;

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    const std::lock_guard lock{mutex};
    const auto all = std::as_bytes(std::span{bytes});
    if (all.size() < request.range.end()) return tarn::fail(std::errc::io_error);
    return request.into.copy_from(all.subspan(request.range.offset(), request.range.size_bytes()));
  }
  tarn::FlushOutcome<Traits> flush(const tarn::FlushRequest<Traits>& request) {
    const std::lock_guard lock{mutex};
    bytes.resize(request.size_bytes);
    request.for_each_piece([&](std::uint64_t offset, std::span<const std::byte> piece, bool /*zero*/) {
      bytes.replace(offset, piece.size(), reinterpret_cast<const char*>(piece.data()), piece.size());
    });
    return tarn::FlushOutcome<Traits>::stored();
  }
  tarn::Result<> remove(const Traits::FileId&) { return tarn::fail(std::errc::operation_not_permitted); }
};
using File = tarn::DirtyFile<Traits, StringStore>;

constexpr fuse_ino_t file_inode = 2;

struct Filesystem {
  tarn::ChunkPool<Traits> pool{{.budget_bytes = 64 * tarn::MiB}};
  StringStore store;
  tarn::fuse::WaitingWrites waiting;  // one for all files
  std::shared_ptr<File> file =
      std::make_shared<File>(pool, tarn::DirtyFileMetadata::created(file_inode, {.part_bytes = 4 * tarn::MiB}), store);
};
Filesystem& of(fuse_req_t request) { return *static_cast<Filesystem*>(fuse_req_userdata(request)); }

struct stat attributes(fuse_req_t request, fuse_ino_t inode) {
  struct stat is {};
  is.st_ino = inode;
  is.st_nlink = 1;
  is.st_mode = inode == file_inode ? S_IFREG | 0644 : S_IFDIR | 0755;
  if (inode == file_inode) is.st_size = static_cast<off_t>(of(request).file->size());
  return is;
}

fuse_lowlevel_ops handlers() {
  fuse_lowlevel_ops ops{};
  ops.init = [](void*, fuse_conn_info* connection) { tarn::fuse::configure(connection); };
  ops.lookup = [](fuse_req_t request, fuse_ino_t, const char* name) {
    if (std::strcmp(name, "file") != 0) return void(fuse_reply_err(request, ENOENT));
    fuse_entry_param entry{};
    entry.ino = file_inode;
    entry.attr = attributes(request, file_inode);
    fuse_reply_entry(request, &entry);
  };
  ops.getattr = [](fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
    const auto is = attributes(request, inode);
    fuse_reply_attr(request, &is, 0);
  };
  ops.setattr = [](fuse_req_t request, fuse_ino_t inode, struct stat* to, int which, fuse_file_info*) {
    if ((which & FUSE_SET_ATTR_SIZE) != 0) {
      const auto cut = of(request).file->truncate(static_cast<std::uint64_t>(to->st_size));
      if (!cut) return tarn::fuse::reply_error(request, cut.error());
    }
    const auto is = attributes(request, inode);
    fuse_reply_attr(request, &is, 0);
  };
  // With the pointer of the file: they reply at once if they can, and else later, when there are the bytes or memory.
  ops.read = [](fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
    tarn::fuse::reply_read(request, of(request).file, size, offset);
  };
  ops.write_buf = [](fuse_req_t request, fuse_ino_t, fuse_bufvec* bytes, off_t offset, fuse_file_info*) {
    tarn::fuse::reply_write(request, of(request).file, bytes, offset, of(request).waiting);
  };
  ops.flush = [](fuse_req_t request, fuse_ino_t, fuse_file_info*) {  // each close
    tarn::fuse::reply_flush(request, of(request).file);
  };
  ops.fsync = [](fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
    tarn::fuse::reply_sync(request, of(request).file);
  };
  return ops;
}

/// Writes the file, over a longer one, and reads it again. Returns: whether it has what was written.
bool try_out(const std::string& path) {
  std::string text(3 * tarn::MiB, '?');
  std::ofstream{path} << text << text;
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  std::ofstream{path} << text;
  std::ifstream file{path};
  return std::string{std::istreambuf_iterator{file}, {}} == text;
}

int main(int count, char** arguments) {
  char own[] = "/tmp/smallest_fuse.XXXXXX";
  const char* const mountpoint = count > 1 ? arguments[1] : ::mkdtemp(own);
  if (mountpoint == nullptr) return 1;
  const auto ops = handlers();
  Filesystem filesystem;  // after daemonising, if you do: no forked child may touch the pool
  fuse_args none = FUSE_ARGS_INIT(1, arguments);
  auto* const session = fuse_session_new(&none, &ops, sizeof ops, &filesystem);
  if (session == nullptr || fuse_set_signal_handlers(session) != 0) return 1;
  bool good = true;
  if (fuse_session_mount(session, mountpoint) != 0) {
    std::cout << "nothing can be mounted here\n";
  } else {
    std::thread user;
    if (count == 1) {
      user = std::thread{[&, server = ::pthread_self()] {
        good = try_out(std::string{mountpoint} + "/file");
        ::pthread_kill(server, SIGTERM);  // as one ends it
      }};
    }
    const int error = tarn::fuse::serve(session, filesystem.pool);
    fuse_session_unmount(session);  // whoever waits for an answer still gets an error
    if (user.joinable()) user.join();
    // What a signal ended has not been closed, and may be dirty still.
    const auto flushed = filesystem.file->flush();
    if (error != 0 || !flushed) std::cerr << "not served, or not stored: " << error << '\n';
    good = good && error == 0 && flushed;
    std::cout << "the store has " << filesystem.store.bytes.size() << " bytes\n";
  }
  fuse_remove_signal_handlers(session);
  fuse_session_destroy(session);  // no reply is due: this store answers at once
  fuse_opt_free_args(&none);
  if (count == 1) (void)::rmdir(own);
  return good ? 0 : 1;
}
