// SPDX-License-Identifier: MIT
#pragma once

// What tarn asks of whoever embeds it: one file of SOURCE that gives bytes and takes them. It answers later, by the
// loaders, so that nobody who asks waits here.
//
// A loader lets go of the store before it answers: whoever hears the answer may let go of the file. The destructor waits
// for what it still has to do with it.

#include <tarn/store.hpp>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <system_error>
#include <utility>

#include "loader_pool.hpp"
#include "source_file.hpp"

namespace tarnfs {

[[nodiscard]] inline std::error_code error_code_of(int error) { return {error, std::generic_category()}; }

template <class Traits>
class SourceStore {
 public:
  using Outcome = tarn::FlushOutcome<Traits>;

  SourceStore(SourceFile& source, TaskThreads& loaders) : source_{source}, loaders_{loaders} {}
  ~SourceStore() { in_flight_.wait_for_none(); }
  SourceStore(const SourceStore&) = delete;
  SourceStore& operator=(const SourceStore&) = delete;

  void load(const tarn::LoadRequest<Traits>&, tarn::LoadToken<Traits> token) {
    later(std::move(token),
          [this, kept = kept_](const tarn::LoadRequest<Traits>& request) -> tarn::Result<std::size_t> {
            const int error = source_.load(request.into.iovecs(), request.range.offset());
            if (error) return tarn::fail(error_code_of(error));
            return static_cast<std::size_t>(request.range.size_bytes());
          });
  }

  /// While it lives, loads that this thread begins keep what it keeps until they have ended: for those that nobody
  /// waits for.
  class LoadsKeep {
   public:
    explicit LoadsKeep(std::shared_ptr<const void> keep) { kept_ = std::move(keep); }
    LoadsKeep(const LoadsKeep&) = delete;
    LoadsKeep& operator=(const LoadsKeep&) = delete;
    ~LoadsKeep() { kept_ = nullptr; }
  };

  /// tarn calls for a close or an fsync, or because memory is short: then nobody else could say that it failed.
  void flush(const tarn::FlushRequest<Traits>&, tarn::FlushToken<Traits> token) {
    later(std::move(token), [this](const tarn::FlushRequest<Traits>& request) {
      const int error = store(request);
      last_error_ = error;
      if (!error) return Outcome::stored();
      source_.report_failure("cannot store", error);
      return error == ESTALE ? Outcome::conflict(error_code_of(error)) : Outcome::failed(error_code_of(error));
    });
  }

  void sync(const tarn::SyncRequest<Traits>&, tarn::SyncToken<Traits> token) {
    later(std::move(token), [this](const tarn::SyncRequest<Traits>& request) -> tarn::Result<> {
      int error = failed_beside_.exchange(0);
      if (!error) error = source_.sync(request.scope == tarn::SyncScope::data);
      last_sync_error_ = error;
      if (!error) return {};
      source_.report_failure("fsync", error);
      return tarn::fail(error_code_of(error));
    });
  }

  /// Names are not the bytes' business: who unlinks a file has done so.
  tarn::Result<> remove(const typename Traits::FileId&) { return {}; }

  /// SOURCE was asked for a sync by another way, and said no. It says that once, perhaps of bytes that tarn has yet to
  /// ask about: so the next answer to tarn is that.
  void note_failed_beside(int error) { failed_beside_ = error; }

  /// The errno of the last flush, or 0.
  [[nodiscard]] int last_error() const { return last_error_; }
  /// Whether the log has told of an error of a flush or a sync.
  [[nodiscard]] bool has_told(int error) const { return error == last_error_ || error == last_sync_error_; }

 private:
  inline static thread_local std::shared_ptr<const void> kept_;  // see LoadsKeep

  template <class Token, class Answer>
  void later(Token token, Answer answer) {
    // The token first, to go last: that it is dropped is an answer, too.
    loaders_.post_call([token = std::move(token), counted = Counted{in_flight_}, answer]() mutable {
      auto said = answer(token.request());
      counted.end();
      token.complete(said);
    });
  }

  int store(const tarn::FlushRequest<Traits>& request) {
    SourceFile::Storing storing{source_};
    int error = storing.resize(request.size_bytes);
    auto data = request.data;
    for (const auto& [range, zero] : request.ranges) {
      if (error) break;
      if (zero) {
        error = storing.zero(range.offset(), range.size_bytes());  // in one: it may be as long as files can be
        continue;
      }
      std::size_t pieces = 0;
      for (std::uint64_t bytes = 0; bytes < range.size_bytes(); ++pieces) bytes += data[pieces].iov_len;
      error = storing.write(data.first(pieces), range.offset());
      data = data.subspan(pieces);
    }
    const int finished = storing.finish();
    return error ? error : finished;
  }

  SourceFile& source_;
  TaskThreads& loaders_;
  std::atomic<int> last_error_{0}, last_sync_error_{0}, failed_beside_{0};
  UnderWay in_flight_;
};

}  // namespace tarnfs
