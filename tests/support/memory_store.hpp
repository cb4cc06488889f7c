// SPDX-License-Identifier: MIT
#pragma once

#include <tarn/testing/memory_store.hpp>

#include "support/testing.hpp"
