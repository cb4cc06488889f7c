// SPDX-License-Identifier: MIT

// How the plan that tarn was born from keeps what is written, mounted, for comparison: a reconstruction. A file is a row
// of parts, each one buffer that grows to what is written into it. Files lie in one directory and in memory only, and a
// request does no more than it must.
//
// In the plan's language a vector grows by realloc, which moves pages and no bytes; std::vector would copy each byte
// about once more. It is given the better one, and bytes about to be written are not zeroed before.
//
//   plan_writes_mount [options] SOURCE MOUNTPOINT      as tarnfs is called; of the options and SOURCE nothing is used

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include <tarn/fuse.hpp>  // and libfuse

namespace {

constexpr std::uint64_t part_bytes = std::uint64_t{256} << 20;
constexpr double valid_seconds = 1.0;

/// A buffer that at least doubles when it has to grow.
class GrowingBuffer {
 public:
  void write(std::size_t offset, const char* bytes, std::size_t size) {
    const auto end = offset + size;
    if (end > capacity_) grow(std::max(end, 2 * capacity_));
    if (offset > size_) std::memset(memory_.get() + size_, 0, offset - size_);
    std::memcpy(memory_.get() + offset, bytes, size);
    size_ = std::max(size_, end);
  }
  /// What there is from an offset on.
  [[nodiscard]] std::size_t read(std::size_t offset, char* into, std::size_t size) const {
    if (offset >= size_) return 0;
    const auto held = std::min(size, size_ - offset);
    std::memcpy(into, memory_.get() + offset, held);
    return held;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  void grow(std::size_t capacity) {
    auto* const grown = static_cast<char*>(std::realloc(memory_.get(), capacity));
    if (grown == nullptr) throw std::bad_alloc{};
    static_cast<void>(memory_.release());
    memory_.reset(grown);
    capacity_ = capacity;
  }

  std::unique_ptr<char, Free> memory_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

/// Calls f(part, where in it, where in the bytes, how many) for each part that a range touches.
template <class F>
void for_each_part(std::uint64_t offset, std::size_t size, F&& f) {
  for (std::size_t done = 0; done < size;) {
    const auto in_part = (offset + done) % part_bytes;
    const auto count = std::min(size - done, static_cast<std::size_t>(part_bytes - in_part));
    f(static_cast<std::size_t>((offset + done) / part_bytes), static_cast<std::size_t>(in_part), done, count);
    done += count;
  }
}

class File {
 public:
  void write(std::uint64_t offset, const char* bytes, std::size_t size) {
    std::lock_guard lock{mutex_};
    for_each_part(offset, size, [&](std::size_t part, std::size_t at, std::size_t done, std::size_t count) {
      if (part >= parts_.size()) parts_.resize(part + 1);
      parts_[part].write(at, bytes + done, count);
    });
    size_ = std::max(size_, offset + size);
  }
  [[nodiscard]] std::vector<char> read(std::uint64_t offset, std::size_t size) {
    std::lock_guard lock{mutex_};
    if (offset >= size_) return {};
    std::vector<char> answer(static_cast<std::size_t>(std::min<std::uint64_t>(size, size_ - offset)));
    for_each_part(offset, answer.size(), [&](std::size_t part, std::size_t at, std::size_t done, std::size_t count) {
      if (part < parts_.size()) static_cast<void>(parts_[part].read(at, answer.data() + done, count));
    });
    return answer;
  }
  void clear() {
    std::lock_guard lock{mutex_};
    parts_.clear();
    size_ = 0;
  }
  [[nodiscard]] std::uint64_t size() {
    std::lock_guard lock{mutex_};
    return size_;
  }

 private:
  std::mutex mutex_;
  std::vector<GrowingBuffer> parts_;
  std::uint64_t size_ = 0;
};

/// The one directory. Files are never freed before the end: their inode number is their place in the row.
class Directory {
 public:
  File& make(const std::string& name, fuse_ino_t& inode) {
    std::lock_guard lock{mutex_};
    files_.push_back(std::make_unique<File>());
    inode = FUSE_ROOT_ID + files_.size();
    names_[name] = inode;
    return *files_.back();
  }
  [[nodiscard]] fuse_ino_t find(const std::string& name) {
    std::lock_guard lock{mutex_};
    const auto found = names_.find(name);
    return found == names_.end() ? 0 : found->second;
  }
  [[nodiscard]] File& file(fuse_ino_t inode) {
    std::lock_guard lock{mutex_};
    return *files_[inode - FUSE_ROOT_ID - 1];
  }
  [[nodiscard]] bool remove(const std::string& name) {
    std::lock_guard lock{mutex_};
    const auto found = names_.find(name);
    if (found == names_.end()) return false;
    files_[found->second - FUSE_ROOT_ID - 1]->clear();
    names_.erase(found);
    return true;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, fuse_ino_t> names_;
  std::vector<std::unique_ptr<File>> files_;
};

Directory& directory(fuse_req_t request) { return *static_cast<Directory*>(fuse_req_userdata(request)); }

struct stat attributes(fuse_req_t request, fuse_ino_t inode) {
  struct stat of {};
  of.st_ino = inode;
  of.st_mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
  of.st_nlink = 1;
  if (inode != FUSE_ROOT_ID) of.st_size = static_cast<off_t>(directory(request).file(inode).size());
  return of;
}

fuse_entry_param entry(fuse_req_t request, fuse_ino_t inode) {
  fuse_entry_param of{};
  of.ino = inode;
  of.attr = attributes(request, inode);
  of.attr_timeout = of.entry_timeout = valid_seconds;
  return of;
}

void init(void*, fuse_conn_info* connection) { tarn::fuse::configure(connection); }

void lookup(fuse_req_t request, fuse_ino_t, const char* name) {
  const auto inode = directory(request).find(name);
  if (inode == 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  const auto found = entry(request, inode);
  fuse_reply_entry(request, &found);
}

void getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  const auto of = attributes(request, inode);
  fuse_reply_attr(request, &of, valid_seconds);
}

void setattr(fuse_req_t request, fuse_ino_t inode, struct stat* wanted, int what, fuse_file_info*) {
  if ((what & FUSE_SET_ATTR_SIZE) != 0) {
    if (wanted->st_size != 0 || inode == FUSE_ROOT_ID) {
      fuse_reply_err(request, ENOTSUP);
      return;
    }
    directory(request).file(inode).clear();
  }
  getattr(request, inode, nullptr);
}

void create(fuse_req_t request, fuse_ino_t, const char* name, mode_t, fuse_file_info* info) {
  fuse_ino_t inode = 0;
  directory(request).make(name, inode);
  info->direct_io = 1;
  const auto made = entry(request, inode);
  fuse_reply_create(request, &made, info);
}

void open(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  info->direct_io = 1;
  fuse_reply_open(request, info);
}

void read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset, fuse_file_info*) {
  const auto answer = directory(request).file(inode).read(static_cast<std::uint64_t>(offset), size);
  fuse_reply_buf(request, answer.data(), answer.size());
}

void write(fuse_req_t request, fuse_ino_t inode, const char* bytes, std::size_t size, off_t offset, fuse_file_info*) {
  try {
    directory(request).file(inode).write(static_cast<std::uint64_t>(offset), bytes, size);
  } catch (const std::bad_alloc&) {
    fuse_reply_err(request, ENOMEM);
    return;
  }
  fuse_reply_write(request, size);
}

void unlink(fuse_req_t request, fuse_ino_t, const char* name) {
  fuse_reply_err(request, directory(request).remove(name) ? 0 : ENOENT);
}

void done(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, 0); }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: plan_writes_mount [options] SOURCE MOUNTPOINT\n");
    return 2;
  }
  fuse_lowlevel_ops handlers{};
  handlers.init = init;
  handlers.lookup = lookup;
  handlers.getattr = getattr;
  handlers.setattr = setattr;
  handlers.create = create;
  handlers.open = open;
  handlers.read = read;
  handlers.write = write;
  handlers.flush = done;
  handlers.release = done;
  handlers.unlink = unlink;

  Directory files;
  const char* const arguments[] = {"plan_writes_mount", "-o", "fsname=plan_writes"};
  fuse_args args{3, const_cast<char**>(arguments), 0};
  const std::unique_ptr<fuse_session, void (*)(fuse_session*)> session{
      fuse_session_new(&args, &handlers, sizeof handlers, &files), fuse_session_destroy};
  if (!session || fuse_set_signal_handlers(session.get()) != 0 ||
      fuse_session_mount(session.get(), argv[argc - 1]) != 0) {
    return 1;
  }
  const std::unique_ptr<fuse_loop_config, void (*)(fuse_loop_config*)> config{fuse_loop_cfg_create(),
                                                                              fuse_loop_cfg_destroy};
  fuse_loop_cfg_set_max_threads(config.get(), 2);
  const int ended = fuse_session_loop_mt(session.get(), config.get());
  fuse_session_unmount(session.get());
  fuse_remove_signal_handlers(session.get());
  return ended == 0 ? 0 : 1;
}
