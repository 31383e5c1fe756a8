// For an editor that opens a kernel file by itself: the layer of the baseline, and its namespace, which is left open: the
// one complaint left is a missing brace at the end of the file. No build includes it.
#pragma once

#define DVAE_TARGET baseline
#define DVAE_SIMD_BASELINE 1
#include "simd/common.h"
namespace dvae::baseline {
#include "simd/layer.h"
