// SPDX-License-Identifier: MIT
#pragma once

// Traits that most tests start from. A pool whose observer nobody wrote asserts that no dirty byte is destroyed
// unflushed; many tests end like that and mean it, so theirs has one that hears and says nothing.

#include <tarn/policies.hpp>

namespace tarn_test {

struct UnmovedObserver : tarn::NullObserver {};

struct TestTraits : tarn::DefaultTraits {
  using Observer = UnmovedObserver;
};

}  // namespace tarn_test
