// SPDX-License-Identifier: MIT
// What a file's lock guards is changed with the lock held exclusively: shared is enough to look at it alone.
// only: clang
// flags: -Wthread-safety -Werror
// expect: writing variable 'removing' requires holding file's lock 'body.lock' exclusively
#include <tarn/tarn.hpp>

using Body = tarn::detail::FileBody<tarn::DefaultTraits>;

bool was_removing(Body& body) {
  const tarn::detail::SharedLock lock{body.lock};
  const bool was = body.removing;
#ifdef MUST_NOT_COMPILE
  body.removing = false;
#endif
  return was;
}
