// SPDX-License-Identifier: MIT
#pragma once

// What tarn asks of whoever embeds it: one file of SOURCE that gives bytes and takes them.

#include <tarn/store.hpp>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <system_error>

#include "source_file.hpp"

namespace tarnfs {

template <class Traits>
class SourceStore {
 public:
  using Outcome = tarn::FlushOutcome<Traits>;

  explicit SourceStore(SourceFile& source) : source_{source} {}

  tarn::Result<std::size_t> load(const tarn::LoadRequest<Traits>& request) {
    if (const int error = source_.load(request.into.iovecs(), request.range.offset())) return tarn::fail(code(error));
    return static_cast<std::size_t>(request.range.size_bytes());
  }

  /// tarn calls for a close or an fsync, or because memory is short: then nobody else could say that it failed.
  Outcome flush(const tarn::FlushRequest<Traits>& request) {
    const int error = store(request);
    last_error_ = error;
    if (!error) return Outcome::stored();
    source_.report_failure("cannot store", error);
    return error == ESTALE ? Outcome::conflict(code(error)) : Outcome::failed(code(error));
  }

  /// Names are not the bytes' business: who unlinks a file has done so.
  tarn::Result<> remove(const typename Traits::FileId&) { return {}; }

  /// The errno of the last flush, which the log has told of; or 0.
  [[nodiscard]] int last_error() const { return last_error_; }

 private:
  static std::error_code code(int error) { return {error, std::generic_category()}; }

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
  std::atomic<int> last_error_{0};
};

}  // namespace tarnfs
