// SPDX-License-Identifier: MIT
#pragma once

#include <tarn/testing/later_store.hpp>

#include "support/testing.hpp"
