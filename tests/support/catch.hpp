// SPDX-License-Identifier: MIT
#pragma once

// Catch2, version 3 or 2: for what tarn's tests use of it only the name of the header differs.
//
// Thread safety: none. An assertion made on another thread than the test's is lost and the run still says passed: let
// workers collect what they saw, join them, and assert on the test's own thread.

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "support/testing.hpp"
