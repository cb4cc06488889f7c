// SPDX-License-Identifier: MIT
// Compile: -O1 in explorations
// CTest: LABELS slow
#define TARN_SYNC_HEADER "explore/explored_sync.hpp"

// File records under the explorer: made, found, replaced and let go of, a record lives as long as anybody uses it, and
// its id has one at a time.

#include <tarn/detail/registry.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <tarn/eviction/clock.hpp>

#include "explore/explore.hpp"
#include "explore/small_pool.hpp"
#include "support/catch.hpp"

using tarn_test::explore;
using tarn_test::Explorer;
using tarn_test::Scenario;

namespace {

using Traits = tarn_test::ExploredTraits;
using Registry = tarn::detail::Registry<Traits>;
using Ref = tarn::detail::RecordRef<Traits>;

struct World {
  tarn::Budget budget{1 << 20};
  Registry registry{budget};
  const Registry::Key key{std::in_place_index<0>, 7};
  Ref before;               // of who was there first, if the scenario has one
  std::vector<Ref> owners;  // one for each thread that may own the id, and the record that it has retired
  std::vector<Ref> retired;

  tarn::detail::Mutex mutex;
  const void* used = nullptr;  // by `users` at a time
  int users = 0;

  /// Uses the record, as long as others use the same one.
  void use(const Ref& ref) {
    {
      const std::lock_guard lock{mutex};
      Explorer::expect(users++ == 0 || used == &*ref, "one id has two records");
      used = &*ref;
    }
    {
      const tarn::detail::MutexLock table{ref->table_mutex};
      Explorer::expect(ref->idle(), "a record without chunks is not idle");
    }
    const std::lock_guard lock{mutex};
    --users;
  }
};
using Act = std::function<void(World&, std::size_t)>;

const Act make_and_use = [](World& world, std::size_t) {
  const auto ref = world.registry.find_or_make(world.key);
  Explorer::expect(static_cast<bool>(ref), "a record is refused");
  world.use(ref);
};
const Act find_and_use = [](World& world, std::size_t) {
  if (const auto ref = world.registry.find(world.key); ref) world.use(ref);
};
const Act let_go = [](World& world, std::size_t) { world.before = {}; };
const Act share = [](World& world, std::size_t) {
  const auto mine = world.before.share();
  world.use(mine);
};
const Act look_at_all = [](World& world, std::size_t) {
  world.registry.for_each(
      [&](auto& record) { Explorer::expect(record.users.load() != 0, "a record that nobody uses"); });
};
const Act count_changed = [](World& world, std::size_t) {
  Explorer::expect(world.registry.changed().files == 0, "a record without changes has some");
};
const Act own = [](World& world, std::size_t me) {
  world.owners[me] = world.registry.own(world.key, world.retired[me]);
  Explorer::expect(static_cast<bool>(world.owners[me]), "an owner is refused");
};
/// A file's whole life.
const Act own_and_go = [](World& world, std::size_t) {
  Ref retired;
  const auto mine = world.registry.own(world.key, retired);
  if (retired) Explorer::expect(retired->abandoned.load() && retired->replaced.load(), "a record retires unmarked");
  world.registry.disown(*mine);
};

/// One thread for each; in the end nothing is left. `first`: somebody uses the record before.
std::function<Scenario()> together(std::vector<Act> acts, bool first = false) {
  return [=] {
    auto world = std::make_shared<World>();
    world->owners.resize(acts.size());
    world->retired.resize(acts.size());
    if (first) world->before = world->registry.find_or_make(world->key);
    Scenario scenario;
    for (std::size_t i = 0; i < acts.size(); ++i) scenario.threads.emplace_back([=] { acts[i](*world, i); });
    scenario.at_end = [=] {
      // Each owner but the last one was retired: who is found is that one.
      std::size_t owners = 0, replaced = 0;
      for (const auto& owner : world->owners) {
        if (!owner) continue;
        ++owners;
        if (owner->replaced.load()) ++replaced;
        const auto found = world->registry.find(world->key);
        const bool is_found = found && &*found == &*owner;
        Explorer::expect(is_found != owner->replaced.load(), "the last owner's record is not the one that is found");
      }
      Explorer::expect(owners <= replaced + 1, "two owners of one id are left");
      world->before = {};
      for (const auto& owner : world->owners) {
        if (owner) world->registry.disown(*owner);
      }
      world->owners.clear();
      world->retired.clear();
      Explorer::expect(!world->registry.find(world->key), "a record stays");
      Explorer::expect(world->budget.charged_bytes() == 0, "a record went twice, or stays charged");
    };
    return scenario;
  };
}

}  // namespace

TEST_CASE("an id has one record, that is there while somebody uses it", "[explore]") {
  explore("made by two", together({make_and_use, make_and_use}));
  explore("found while its last user lets go", together({find_and_use, let_go}, true));
  explore("made while its last user lets go", together({make_and_use, let_go}, true));
  explore("shared, and found", together({share, find_and_use}, true));
  explore("looked at, as one of all, while it goes", together({look_at_all, let_go}, true));
  explore("counted, as one of all, while it goes", together({count_changed, let_go}, true));
  explore("made by three", together({make_and_use, make_and_use, make_and_use}), 3);
  explore("made and found while its last user lets go", together({make_and_use, find_and_use, let_go}, true), 3);
  explore("looked at and made while its last user lets go", together({look_at_all, make_and_use, let_go}, true), 3);
}

TEST_CASE("of an id used again, one owner after the other retires the one before", "[explore]") {
  explore("two owners", together({own, own}));
  explore("an owner, and one who comes and goes", together({own, own_and_go}));
  explore("two who come and go", together({own_and_go, own_and_go}));
  explore("an owner of what somebody uses", together({own, let_go}, true));
  explore("an owner, of what another makes", together({own, make_and_use}));
  explore("three owners", together({own, own, own}), 3);
  explore("two owners, and one who comes and goes", together({own, own_and_go, own}), 3);
  explore("two who come and go, and one who looks", together({own_and_go, find_and_use, own_and_go}), 3);
}
