// SPDX-License-Identifier: MIT
#pragma once

// What the embedder implements: where bytes come from and go to.
//
// A store is any object with `load`, `flush` and `remove` as below. tarn calls it with no lock and no latch held, from
// whichever thread read, wrote or flushed, several at once for different ranges and files, but never with two flushes
// of one file at a time. A store may block. It may use the pool for other files; a call for the very file that it is
// asked for answers EDEADLK where it would wait. (Not so visitors and fillers: those run under latches, and call
// nothing of tarn, not even size().) An exception that leaves a store counts as a failure (EIO, or its own code if it
// is a std::system_error). Its errors may be of any category: see fail.
//
// A store of one's own is checked by `static_assert(tarn::ChunkStore<MyStore, Traits>)`, which says what is missing:
//
//   struct MyStore {
//     Result<std::size_t> load(const LoadRequest<Traits>& request);        // or (request, LoadToken<Traits>) -> void
//     FlushOutcome<Traits> flush(const FlushRequest<Traits>& request);     // or (request, FlushToken<Traits>) -> void
//     Result<> sync(const SyncRequest<Traits>& request);                   // optional; or with a SyncToken<Traits>
//     Result<> reserve(const ReserveRequest<Traits>& request);             // optional
//     Result<> remove(const FileId& file);
//   };
//
// `sync` is for a store whose flush answers `stored` and not `durable`: without it, stored is taken for durable. It may
// take every sync for one of all (see SyncScope).
// `flush_unit` (see FlushUnit) is for one that cannot store dirty ranges alone, or wants a file of one moment.
// `reserve` is for one that knows before a write that it could not store it (quota, full): its error is the write's.
//
// With a token it answers later, from any thread: see token.hpp.

#include <concepts>
#include <cstddef>
#include <utility>

#include <tarn/result.hpp>
#include <tarn/store_request.hpp>
#include <tarn/token.hpp>

namespace tarn {
namespace detail {

template <class S, class Traits>
concept AnswersLoadAtOnce = requires(S& store, const LoadRequest<Traits>& request) {
  { store.load(request) } -> std::convertible_to<Result<std::size_t>>;
};
template <class S, class Traits>
concept AnswersLoadLater = requires(S& store, const LoadRequest<Traits>& request, LoadToken<Traits> token) {
  { store.load(request, std::move(token)) } -> std::same_as<void>;
};
template <class S, class Traits>
concept AnswersFlushAtOnce = requires(S& store, const FlushRequest<Traits>& request) {
  { store.flush(request) } -> std::convertible_to<FlushOutcome<Traits>>;
};
template <class S, class Traits>
concept AnswersFlushLater = requires(S& store, const FlushRequest<Traits>& request, FlushToken<Traits> token) {
  { store.flush(request, std::move(token)) } -> std::same_as<void>;
};

template <class S, class Traits>
concept AnswersSyncAtOnce = requires(S& store, const SyncRequest<Traits>& request) {
  { store.sync(request) } -> std::convertible_to<Result<>>;
};
template <class S, class Traits>
concept AnswersSyncLater = requires(S& store, const SyncRequest<Traits>& request, SyncToken<Traits> token) {
  { store.sync(request, std::move(token)) } -> std::same_as<void>;
};
template <class S>
[[nodiscard]] constexpr FlushUnit flush_unit_of() {
  if constexpr (requires { S::flush_unit; }) return S::flush_unit;
  return FlushUnit::ranges;
}
template <class S, class Traits>
concept Reserves = requires(S& store, const ReserveRequest<Traits>& request) {
  { store.reserve(request) } -> std::convertible_to<Result<>>;
};
template <class S, class Traits>
concept Syncs = AnswersSyncAtOnce<S, Traits> || AnswersSyncLater<S, Traits>;

}  // namespace detail

/// Gives bytes. `load` fills all of `request.into` and answers how many bytes that was; any other number is EIO, since
/// tarn asks only for bytes that the store said it has.
template <class S, class Traits>
concept ChunkLoader = detail::AnswersLoadAtOnce<S, Traits> || detail::AnswersLoadLater<S, Traits>;

/// Takes bytes.
template <class S, class Traits>
concept ChunkFlusher = detail::AnswersFlushAtOnce<S, Traits> || detail::AnswersFlushLater<S, Traits>;

/// All a DirtyFile needs.
template <class S, class Traits>
concept ChunkStore = ChunkLoader<S, Traits> && ChunkFlusher<S, Traits> &&
    requires(S& store, const typename Traits::FileId& file) {
  { store.remove(file) } -> std::convertible_to<Result<>>;
};

}  // namespace tarn
