// SPDX-License-Identifier: MIT
#pragma once

// What a pool is made of: a plain bag of types, each a small struct that meets a concept. Derive from DefaultTraits and
// replace what differs:
//
//   struct MyTraits : tarn::DefaultTraits { using FileId = Uuid; using Storage = tarn::HeapStorage; };
//   tarn::ChunkPool<MyTraits> pool{{.budget_bytes = tarn::GiB}};

#include <array>
#include <chrono>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include <tarn/budget.hpp>
#include <tarn/detail/sync.hpp>
#include <tarn/extent_set.hpp>

namespace tarn {

/// A digest of N bytes that names content. Compared whole; the hash is a fold, which only spreads.
template <std::size_t N>
struct Digest {
  static_assert(N != 0);
  std::array<std::byte, N> bytes{};
  friend auto operator<=>(const Digest&, const Digest&) = default;
  // By words: what compares an array of bytes goes from one to the next.
  friend constexpr bool operator==(const Digest& a, const Digest& b) noexcept {
    return std::is_constant_evaluated() ? a.bytes == b.bytes : std::memcmp(a.bytes.data(), b.bytes.data(), N) == 0;
  }
};

struct StorageOptions {
  std::size_t chunk_bytes;
  bool prefault = false;  ///< touch memory when it is committed, not when it is first used
};

/// Where chunk memory comes from. `allocate` charges the budget before it commits anything and answers null if the
/// charge or the system refuses; memory that is kept warm stays charged, and `trim` gives back what it can of that.
/// Memory is aligned to min(chunk_bytes, 4096) and never initialised. All calls come from any thread.
template <class S>
concept ChunkStorage = std::constructible_from<S, const StorageOptions&> &&
    requires(S& s, Budget& budget, std::byte* memory) {
  { s.allocate(budget) }
  noexcept->std::same_as<std::byte*>;
  { s.deallocate(memory, budget) }
  noexcept;
  { s.trim(budget) }
  noexcept->std::convertible_to<std::uint64_t>;
  { S::min_budget_bytes(std::size_t{}) } -> std::convertible_to<std::uint64_t>;
};

/// Which clean chunk goes first. `Hook` is the policy's part of each chunk; reset makes it as it was made, for another
/// chunk, while it is not inserted; what a touch changes is best in its first 8 bytes, beside what a hit looks at
/// anyway. insert, remove and evict come one at a time; touch comes from any thread at any time and must be O(1) and
/// lock-free. insert is told a name: a hash of what the chunk holds, of which every bit is mixed, the same when that
/// comes again. evict(try_evict) offers hooks in the order they should go until try_evict, which removes what it
/// takes, answers true; it offers every hook at least once, a bounded number in all, and answers whether one was
/// taken. `extra_bytes` is what the policy has for each chunk beside its hook, at most: it is charged with the chunk.
template <class E>
concept EvictionPolicy = requires(E& policy, typename E::Hook& hook, bool (*try_evict)(typename E::Hook&)) {
  { policy.insert(hook, std::uint64_t{}) }
  noexcept;
  { policy.remove(hook) }
  noexcept;
  { std::as_const(policy).touch(hook) }
  noexcept;
  { hook.reset() }
  noexcept;
  { policy.evict(try_evict) } -> std::same_as<bool>;
  {std::integral_constant<std::size_t, E::extra_bytes>{}};
};

/// Told of what a log or a metric wants to know and PoolStats cannot say, with no lock and no latch held, in whichever
/// thread it happens; it must not block or call tarn. Costs nothing when empty. One's own derives from it and hides
/// what it wants to hear; for what is not hidden no clock is read.
struct NullObserver {
  /// What nobody wants to hear answers this, and so is known when compiling.
  struct Unheard {};

  /// What was dirty of a file went unflushed with what held it, so many bytes of it; 0 if that was a size, a hole or a
  /// new file. Who drops it by a call of his own (ChunkPool::drop) is answered there.
  template <class FileId>
  void on_dirty_lost(const FileId&, std::uint64_t) noexcept {}
  template <class FileId>
  void on_flush_failed(const FileId&, std::error_code) noexcept {}  ///< a flush or sync that nobody waited for failed
  /// A sync failed, and these bytes, stored since the last good one, are not held any more: only the store can say
  /// whether it will keep them. What was held is dirty again.
  template <class FileId>
  void on_sync_failed(const FileId&, const ExtentSet&, std::error_code) noexcept {}

  // How long stores take: ns, by the pool's time source, from the request to its answer; and the error, if there is
  // one. Those of your own return nothing.

  /// A store was asked to load so many bytes. Content alone has no file (null); a file's own bytes have no content.
  template <class FileId, class ContentId>
  Unheard on_load_done(const FileId*, const ContentId*, std::uint64_t, std::int64_t, std::error_code) noexcept {
    return {};
  }
  /// A flush gave the store so many bytes of the file, zeros not counted, and has been settled.
  template <class FileId>
  Unheard on_flush_done(const FileId&, std::uint64_t, std::int64_t, std::error_code) noexcept {
    return {};
  }
  /// A store was asked to make the file durable.
  template <class FileId>
  Unheard on_sync_done(const FileId&, std::int64_t, std::error_code) noexcept {
    return {};
  }
};

template <class O, class FileId, class ContentId>
concept PoolObserver = requires(O& observer, const FileId& id, const ContentId& content, std::uint64_t bytes,
                                const ExtentSet& extents, std::int64_t ns, std::error_code why) {
  { observer.on_dirty_lost(id, bytes) }
  noexcept;
  { observer.on_flush_failed(id, why) }
  noexcept;
  { observer.on_sync_failed(id, extents, why) }
  noexcept;
  { observer.on_load_done(&id, &content, bytes, ns, why) }
  noexcept;
  { observer.on_flush_done(id, bytes, ns, why) }
  noexcept;
  { observer.on_sync_done(id, ns, why) }
  noexcept;
};

/// What time it is, and waiting for it. The pool keeps one. wait_until sleeps until `changed` is notified or the time
/// has come, and answers whether there is time left; it may wake early.
template <class T>
concept TimeSource = std::default_initializable<T> &&
    requires(T& time, detail::ConditionVariable& changed, std::unique_lock<detail::Mutex>& lock, std::int64_t ns) {
  { time.now_ns() }
  noexcept->std::same_as<std::int64_t>;
  { time.wait_until(changed, lock, ns) } -> std::same_as<bool>;
};

struct SteadyTime {
  [[nodiscard]] std::int64_t now_ns() const noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  [[nodiscard]] bool wait_until(detail::ConditionVariable& changed, std::unique_lock<detail::Mutex>& lock,
                                std::int64_t ns) const {
    const std::chrono::steady_clock::time_point at{std::chrono::nanoseconds{ns}};
    return changed.wait_until(lock, at) == std::cv_status::no_timeout;
  }
};

namespace detail {

// Which ends of requests the pool's observer hears: for the others no clock is read.
template <class Traits>
inline constexpr bool hears_loads = !std::same_as<decltype(std::declval<typename Traits::Observer&>().on_load_done(
                                                      static_cast<const typename Traits::FileId*>(nullptr),
                                                      static_cast<const typename Traits::ContentId*>(nullptr),
                                                      std::uint64_t{}, std::int64_t{}, std::error_code{})),
                                                  NullObserver::Unheard>;
template <class Traits>
inline constexpr bool hears_flushes = !std::same_as<decltype(std::declval<typename Traits::Observer&>().on_flush_done(
                                                        std::declval<const typename Traits::FileId&>(), std::uint64_t{},
                                                        std::int64_t{}, std::error_code{})),
                                                    NullObserver::Unheard>;
template <class Traits>
inline constexpr bool hears_syncs =
    !std::same_as<decltype(std::declval<typename Traits::Observer&>().on_sync_done(
                      std::declval<const typename Traits::FileId&>(), std::int64_t{}, std::error_code{})),
                  NullObserver::Unheard>;

}  // namespace detail

class ArenaStorage;
class S3FifoEviction;

struct DefaultTraits {
  using FileId = std::uint64_t;
  using ContentId = Digest<16>;
  using Payload = std::monostate;  ///< carried by a file's metadata: a path, a parent, whatever the filesystem likes
  using Storage = ArenaStorage;
  using Eviction = S3FifoEviction;
  using Observer = NullObserver;
  using TimeSource = SteadyTime;
};

/// What ids are: a value whose hash, == and copies throw nothing, but bad_alloc a copy.
template <class K>
concept HashableKey = std::regular<K> && requires(const K& key) {
  { std::hash<K>{}(key) } -> std::convertible_to<std::size_t>;
};

template <class T>
concept PoolTraits = HashableKey<typename T::FileId> && HashableKey<typename T::ContentId> &&
    std::copyable<typename T::Payload> && ChunkStorage<typename T::Storage> && EvictionPolicy<typename T::Eviction> &&
    PoolObserver<typename T::Observer, typename T::FileId, typename T::ContentId> && TimeSource<typename T::TimeSource>;

}  // namespace tarn

template <std::size_t N>
struct std::hash<tarn::Digest<N>> {
  std::size_t operator()(const tarn::Digest<N>& digest) const noexcept {
    std::uint64_t fold = 0, word = 0;
    const auto add = [&] {
      fold = (fold ^ word) * 0x9E3779B97F4A7C15u;
      fold ^= fold >> 32;  // or the highest bit of one word would be that of the next
    };
    constexpr auto rest = N % sizeof word;
    for (std::size_t at = 0; at != N - rest; at += sizeof word) {
      std::memcpy(&word, digest.bytes.data() + at, sizeof word);
      add();
    }
    if constexpr (rest != 0) {
      word = 0;
      std::memcpy(&word, digest.bytes.data() + (N - rest), rest);
      add();
    }
    return static_cast<std::size_t>(fold);
  }
};
