// SPDX-License-Identifier: MIT
#pragma once

#include <tarn/testing/gate.hpp>

#include "support/testing.hpp"
