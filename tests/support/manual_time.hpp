// SPDX-License-Identifier: MIT
#pragma once

#include <tarn/testing/manual_time.hpp>

#include "support/testing.hpp"
