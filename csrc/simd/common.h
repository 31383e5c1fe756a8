// What the SIMD layer and the kernels of every target use: included once, outside of any target.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/elements.h"
#include "common/indices.h"
#include "common/noise.h"
#include "common/rows.h"
#include "common/scalar_math.h"
#include "common/temperature.h"
#include "simd/intrinsics.h"
#include "simd/tables.h"
