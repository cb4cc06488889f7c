// SPDX-License-Identifier: MIT
#pragma once

// What clang's -Wthread-safety is told: which mutex guards a field, and what a function wants held or takes. With other
// compilers these are nothing. The types that they are for are in detail/sync.hpp.
//
//   std::size_t count_ TARN_GUARDED_BY(mutex_) = 0;          touched with the mutex held alone
//   void insert(Flushable& member) TARN_REQUIRES(mutex_);    called with it held alone
//
// The analysis looks at one function at a time, and knows a mutex by the expression that names it. A lambda is a
// function of its own, and clang 14 crashes on attributes of one in a template: it says what is_held instead.

#if defined(__clang__)
#define TARN_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define TARN_THREAD_SAFETY(attribute)
#endif

// Of types: what can be held, by the word for it in messages; and what holds it while it lives.
#define TARN_CAPABILITY(word) TARN_THREAD_SAFETY(capability(word))
#define TARN_SCOPED_CAPABILITY TARN_THREAD_SAFETY(scoped_lockable)

// Of fields.
#define TARN_GUARDED_BY(...) TARN_THREAD_SAFETY(guarded_by(__VA_ARGS__))
#define TARN_PT_GUARDED_BY(...) TARN_THREAD_SAFETY(pt_guarded_by(__VA_ARGS__))  // what the field points at

// Of functions. With no argument: of the object itself.
#define TARN_REQUIRES(...) TARN_THREAD_SAFETY(requires_capability(__VA_ARGS__))
#define TARN_ACQUIRE(...) TARN_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define TARN_TRY_ACQUIRE(...) TARN_THREAD_SAFETY(try_acquire_capability(__VA_ARGS__))
#define TARN_RELEASE(...) TARN_THREAD_SAFETY(release_capability(__VA_ARGS__))
#define TARN_REQUIRES_SHARED(...) TARN_THREAD_SAFETY(requires_shared_capability(__VA_ARGS__))
#define TARN_ACQUIRE_SHARED(...) TARN_THREAD_SAFETY(acquire_shared_capability(__VA_ARGS__))
#define TARN_TRY_ACQUIRE_SHARED(...) TARN_THREAD_SAFETY(try_acquire_shared_capability(__VA_ARGS__))
#define TARN_RELEASE_SHARED(...) TARN_THREAD_SAFETY(release_shared_capability(__VA_ARGS__))
#define TARN_ASSERTS_HELD(...) TARN_THREAD_SAFETY(assert_capability(__VA_ARGS__))

// Of a function that the analysis cannot follow; why stands beside it.
#define TARN_NO_THREAD_SAFETY_ANALYSIS TARN_THREAD_SAFETY(no_thread_safety_analysis)
