// SPDX-License-Identifier: MIT
#include <tarn/detail/pressure.hpp>

#include <cstdint>
#include <vector>

#include "support/catch.hpp"

using tarn::detail::Flushable;
using tarn::detail::Flushed;
using tarn::detail::Pressure;

namespace {

struct Member : Flushable {
  Flushed flush_for_room() noexcept override { return Flushed::nothing; }
  Flushed flush_older_than(std::int64_t) noexcept override { return Flushed::nothing; }
  [[nodiscard]] bool has_changes() const noexcept override { return changed; }
  bool changed = false;
};

/// Who is asked, each of which answers that.
std::vector<Flushable*> asked(Pressure& pressure, Flushed answer) {
  std::vector<Flushable*> in_turn;
  (void)pressure.flush_one([&](Flushable& member) {
    in_turn.push_back(&member);
    return answer;
  });
  return in_turn;
}

}  // namespace

TEST_CASE("who has nothing left leaves the ring, once, though two ask it at a time", "[pressure]") {
  Pressure pressure;
  Member a, b;
  pressure.list(a);
  pressure.list(b);
  int asks = 0;
  CHECK(pressure.flush_one([&](Flushable&) {
    if (++asks == 1) CHECK(asked(pressure, Flushed::nothing) == std::vector<Flushable*>{&b, &a});
    return Flushed::nothing;
  }) == Flushed::nothing);
  CHECK(asks == 1);  // the other one has gone meanwhile
  CHECK(asked(pressure, Flushed::nothing).empty());
  pressure.list(a);
  pressure.list(b);
  CHECK(asked(pressure, Flushed::nothing) == std::vector<Flushable*>{&a, &b});
}

TEST_CASE("who fails, or has changed since it was asked, stays on the ring, and is asked after the others",
          "[pressure]") {
  Pressure pressure;
  Member a, b;
  pressure.list(a);
  pressure.list(b);
  CHECK(asked(pressure, Flushed::failed) == std::vector<Flushable*>{&a, &b});
  CHECK(asked(pressure, Flushed::some) == std::vector<Flushable*>{&a});
  b.changed = true;
  CHECK(asked(pressure, Flushed::nothing) == std::vector<Flushable*>{&b, &a});
  CHECK(asked(pressure, Flushed::nothing) == std::vector<Flushable*>{&b});
  b.changed = false;
  pressure.leave(b);
  CHECK(asked(pressure, Flushed::nothing).empty());
}
