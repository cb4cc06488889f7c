// SPDX-License-Identifier: MIT
#pragma once

// Operations in flight, of one type: what a model keeps of them. And a write that says, window by window, when it has
// taken bytes in, so that the model has them at the same moment.
//
// Thread safety: none.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include <tarn/dirty_file_async.hpp>

namespace tarn_test {

class ModelOperation {
 public:
  ModelOperation() = default;
  ModelOperation(const ModelOperation&) = delete;
  ModelOperation& operator=(const ModelOperation&) = delete;
  virtual ~ModelOperation() = default;
  virtual void start() = 0;
  virtual void cancel() = 0;

  /// What make() answers, kept. It may be destroyed in its completion.
  template <class Make>
  [[nodiscard]] static std::unique_ptr<ModelOperation> of(Make make);
};

template <class Operation>
class ModelOperationOf final : public ModelOperation {
 public:
  template <class Make>
  explicit ModelOperationOf(Make make) : operation_(make()) {}
  void start() override { operation_.start(); }
  void cancel() override { operation_.cancel(); }

 private:
  Operation operation_;
};

template <class Make>
std::unique_ptr<ModelOperation> ModelOperation::of(Make make) {
  return std::make_unique<ModelOperationOf<decltype(make())>>(std::move(make));
}

/// Fills from `from`, up to `stop`, and then ends there or fails with rubbish left behind; `took` is told of the bytes
/// of each window just before they are the file's.
struct NotedFill {
  using Took = std::function<void(std::size_t done, std::size_t size)>;

  std::span<const std::byte> from;
  std::size_t stop;
  bool fails;
  Took took;

  template <class Window>
  [[nodiscard]] tarn::Result<std::size_t> operator()(Window& window, std::size_t done, std::size_t size) const {
    const auto n = std::min(size, stop - std::min(stop, done));
    const bool breaks = n < size && fails;
    auto left = n;
    auto* next = from.data() + done;
    window.for_each_target([&](std::byte* memory, std::size_t room) {
      const auto some = std::min(room, left);
      if (some != 0) std::memcpy(memory, next, some);
      if (breaks) std::memset(memory + some, 0xEE, room - some);
      next += some;
      left -= some;
    });
    if (breaks) return tarn::fail(std::errc::broken_pipe);
    if (n != 0) took(done, n);
    return n;
  }
};

template <class Traits, class Store>
struct MakeNotedWrite : tarn::detail::MakeFileCall<Traits, Store> {
  MakeNotedWrite(tarn::DirtyFile<Traits, Store>& file, std::uint64_t at, std::size_t size, std::int64_t mtime,
                 NotedFill with)
      : tarn::detail::MakeFileCall<Traits, Store>{file},
        offset{at},
        size_bytes{size},
        mtime_ns{mtime},
        fill{std::move(with)} {}
  [[nodiscard]] auto operator()() {
    using Admit = tarn::detail::AskStore<Store>;
    using Call = tarn::detail::Write<typename tarn::detail::FileBody<Traits>::Access, NotedFill, Admit>;
    return Call{this->access, offset, size_bytes, true, this->room, mtime_ns, fill, Admit{*this->store}};
  }
  std::uint64_t offset;
  std::size_t size_bytes;
  std::int64_t mtime_ns;
  NotedFill fill;
};

/// A write by such a filler. done(Result<tarn::Written>).
template <class Traits, class Store, class Done>
[[nodiscard]] auto noted_write_operation(tarn::DirtyFile<Traits, Store>& file, std::uint64_t offset, std::size_t size,
                                         std::int64_t mtime_ns, NotedFill fill, Done done) {
  using Make = MakeNotedWrite<Traits, Store>;
  return tarn::Operation<Make, Done>{Make{file, offset, size, mtime_ns, std::move(fill)}, std::move(done)};
}

}  // namespace tarn_test
