// SPDX-License-Identifier: MIT
#pragma once

// What the embedder implements: where bytes come from and go to.
//
// A store is any object with `load`, `flush` and `remove` as below. tarn calls it with no lock and no latch held, from
// whichever thread read, wrote or flushed, several at once for different ranges and files, but never with two flushes
// of one file at a time, unless it asks for that. A store may block. It may use the pool for other files; a call for
// the very file that it is asked for answers EDEADLK where it would wait. (Not so visitors and fillers: those run under
// latches, and call nothing of tarn, not even size().) An exception that leaves a store counts as a failure (EIO, or
// its own code if it is a std::system_error). Its errors may be of any category: see fail.
//
// A store of one's own is checked by `static_assert(tarn::ChunkStore<MyStore, Traits>)`, which says what is missing. A
// `sync`, `reserve`, `flushes_at_once`, `load_unit` or `flush_unit` of another form than these is refused, not ignored:
//
//   struct MyStore {
//     Result<std::size_t> load(const LoadRequest<Traits>& request);        // or (request, LoadToken<Traits>) -> void
//     FlushOutcome<Traits> flush(const FlushRequest<Traits>& request);     // or (request, FlushToken<Traits>) -> void
//     Result<> sync(const SyncRequest<Traits>& request);                   // optional; or with a SyncToken<Traits>
//     Result<> reserve(const ReserveRequest<Traits>& request);             // optional
//     std::size_t flushes_at_once() noexcept;                              // optional; 1 without it
//     Result<> remove(const FileId& file);
//     static constexpr LoadUnit load_unit = LoadUnit::parts;               // optional; ranges without it
//     static constexpr FlushUnit flush_unit = FlushUnit::parts;            // optional; ranges without it
//   };
//
// `sync` is for a store whose flush answers `stored` and not `durable`: without it, a flush takes stored for durable.
// It may take every sync for one of all (see SyncScope).
// `load_unit` (see LoadUnit) is for one that cannot give less than a part: the rest of it is kept as far as there is
// room, in place of what has not been used for long.
// `flush_unit` (see FlushUnit) is for one that cannot store dirty ranges alone, or wants a file of one moment.
// `flushes_at_once` is for one that is faster with several flushes of a file at a time: a DirtyFile's flush then has so
// many in flight, in different parts, all of the size that the store has; one that sets a size, or is in a part where
// another is, comes when those before it have ended. Such a store fences by part, answers no version (that is EINVAL:
// nobody could say which is the last), and stores ranges or parts, not files.
// `reserve` is for one that knows before a write that it could not store it (quota, full): its error is the write's.
//
// With a token it answers later, from any thread: see token.hpp.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include <tarn/result.hpp>
#include <tarn/store_request.hpp>
#include <tarn/token.hpp>

namespace tarn {
namespace detail {

/// Not a bare number or bool, which would be taken for a count of bytes.
template <class A>
concept LoadAnswer = std::convertible_to<A, Result<std::size_t>> && !std::convertible_to<A, std::size_t>;

template <class S, class Traits>
concept AnswersLoadAtOnce = requires(S& store, const LoadRequest<Traits>& request) {
  { store.load(request) } -> LoadAnswer;
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
concept HasLoadUnit = std::same_as<std::remove_cvref_t<decltype(std::remove_cvref_t<S>::load_unit)>, LoadUnit>;
template <class S>
concept HasFlushUnit = std::same_as<std::remove_cvref_t<decltype(std::remove_cvref_t<S>::flush_unit)>, FlushUnit>;
template <class S>
[[nodiscard]] constexpr LoadUnit load_unit_of() {
  if constexpr (HasLoadUnit<S>) return std::remove_cvref_t<S>::load_unit;
  return LoadUnit::ranges;
}
template <class S>
[[nodiscard]] constexpr FlushUnit flush_unit_of() {
  if constexpr (HasFlushUnit<S>) return std::remove_cvref_t<S>::flush_unit;
  return FlushUnit::ranges;
}
template <class S, class Traits>
concept FlushesAtOnce = requires(S& store) {
  { store.flushes_at_once() }
  noexcept->std::same_as<std::size_t>;
};
template <class Traits, class S>
[[nodiscard]] std::size_t flushes_at_once_of(S& store) noexcept {
  if constexpr (FlushesAtOnce<S, Traits>) {
    static_assert(flush_unit_of<S>() != FlushUnit::file, "flushes of whole files are one at a time");
    return std::max<std::size_t>(store.flushes_at_once(), 1);
  }
  return 1;
}
template <class S, class Traits>
concept Reserves = requires(S& store, const ReserveRequest<Traits>& request) {
  { store.reserve(request) } -> std::convertible_to<Result<>>;
};
template <class S, class Traits>
concept Syncs = AnswersSyncAtOnce<S, Traits> || AnswersSyncLater<S, Traits>;
template <class S, class Traits>
concept Removes = requires(S& store, const typename Traits::FileId& file) {
  { store.remove(file) } -> std::convertible_to<Result<>>;
};

// Whether a store has anything of the name of an optional call, which must not be ignored because it is private, or its
// arguments are a little off: in a class that has another one of that name beside it, the name is ambiguous then. Of a
// final class only what one can take the address of is seen.
struct NamesSync {
  int sync;
};
struct NamesReserve {
  int reserve;
};
struct NamesFlushesAtOnce {
  int flushes_at_once;
};
struct NamesLoadUnit {
  int load_unit;
};
struct NamesFlushUnit {
  int flush_unit;
};
template <class S, class Other>
struct Both : S, Other {
 protected:
  ~Both();  // never made
};
template <class S>
[[nodiscard]] constexpr bool names_sync() {
  if constexpr (std::is_class_v<S> && !std::is_final_v<S>) return !requires {
      &Both<S, NamesSync>::sync;
    };
  return requires { &S::sync; };
}
template <class S>
[[nodiscard]] constexpr bool names_reserve() {
  if constexpr (std::is_class_v<S> && !std::is_final_v<S>) return !requires {
      &Both<S, NamesReserve>::reserve;
    };
  return requires { &S::reserve; };
}
template <class S>
[[nodiscard]] constexpr bool names_flushes_at_once() {
  if constexpr (std::is_class_v<S> && !std::is_final_v<S>) return !requires {
      &Both<S, NamesFlushesAtOnce>::flushes_at_once;
    };
  return requires { &S::flushes_at_once; };
}
template <class S>
[[nodiscard]] constexpr bool names_load_unit() {
  if constexpr (std::is_class_v<S> && !std::is_final_v<S>) return !requires {
      &Both<S, NamesLoadUnit>::load_unit;
    };
  return requires { &S::load_unit; };
}
template <class S>
[[nodiscard]] constexpr bool names_flush_unit() {
  if constexpr (std::is_class_v<S> && !std::is_final_v<S>) return !requires {
      &Both<S, NamesFlushUnit>::flush_unit;
    };
  return requires { &S::flush_unit; };
}
template <class S, class Traits>
concept SyncsOrHasNoSync = Syncs<S, Traits> || !names_sync<std::remove_cvref_t<S>>();
template <class S, class Traits>
concept ReservesOrHasNoReserve = Reserves<S, Traits> || !names_reserve<std::remove_cvref_t<S>>();
template <class S, class Traits>
concept FlushesAtOnceOrOneByOne = FlushesAtOnce<S, Traits> || !names_flushes_at_once<std::remove_cvref_t<S>>();
template <class S>
concept LoadsByUnitOrRange = HasLoadUnit<S> || !names_load_unit<std::remove_cvref_t<S>>();
template <class S>
concept FlushesByUnitOrRange = HasFlushUnit<S> || !names_flush_unit<std::remove_cvref_t<S>>();

}  // namespace detail

/// Gives bytes. `load` fills all of `request.into` and answers how many bytes that was; any other number is EIO, since
/// tarn asks only for bytes that the store said it has. That memory is not zeroed before: where a store has not filled
/// what it counts, readers see what was there, perhaps another file's.
template <class S, class Traits>
concept ChunkLoader = (detail::AnswersLoadAtOnce<S, Traits> ||
                       detail::AnswersLoadLater<S, Traits>)&&detail::LoadsByUnitOrRange<S>;

/// Takes bytes.
template <class S, class Traits>
concept ChunkFlusher = (detail::AnswersFlushAtOnce<S, Traits> ||
                        detail::AnswersFlushLater<S, Traits>)&&detail::FlushesByUnitOrRange<S>;

/// All a DirtyFile needs.
template <class S, class Traits>
concept ChunkStore = ChunkLoader<S, Traits> && ChunkFlusher<S, Traits> && detail::Removes<S, Traits> &&
    detail::SyncsOrHasNoSync<S, Traits> && detail::ReservesOrHasNoReserve<S, Traits> &&
    detail::FlushesAtOnceOrOneByOne<S, Traits>;

namespace detail {

/// Whether it is a store. An error of the compiler, in words, if it is none.
template <class S, class Traits>
[[nodiscard]] constexpr bool check_store() {
  static_assert(LoadsByUnitOrRange<S>,
                "the store's load_unit is not one that tarn reads: static constexpr LoadUnit, public");
  static_assert(FlushesByUnitOrRange<S>,
                "the store's flush_unit is not one that tarn reads: static constexpr FlushUnit, public");
  static_assert(ChunkLoader<S, Traits>,
                "a store has Result<std::size_t> load(const LoadRequest<Traits>&), or void load with a LoadToken, too");
  static_assert(ChunkFlusher<S, Traits>,
                "a store has FlushOutcome<Traits> flush(const FlushRequest<Traits>&), or void flush with a FlushToken");
  static_assert(Removes<S, Traits>, "a store has Result<> remove(const FileId&)");
  static_assert(SyncsOrHasNoSync<S, Traits>,
                "the store's sync is not one that tarn calls: Result<> sync(const SyncRequest<Traits>&), or void sync "
                "with a SyncToken, public; without a sync, stored is taken for durable");
  static_assert(
      ReservesOrHasNoReserve<S, Traits>,
      "the store's reserve is not one that tarn calls: Result<> reserve(const ReserveRequest<Traits>&), public");
  static_assert(
      FlushesAtOnceOrOneByOne<S, Traits>,
      "the store's flushes_at_once is not one that tarn calls: std::size_t flushes_at_once() noexcept, public");
  return ChunkStore<S, Traits>;
}

}  // namespace detail
}  // namespace tarn
