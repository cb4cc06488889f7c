// SPDX-License-Identifier: MIT
#pragma once

// What embedders test with, tarn/testing, is what our own tests stand on: they call it by the name of their own.

namespace tarn::testing {}
namespace tarn_test {
using namespace tarn::testing;
}
