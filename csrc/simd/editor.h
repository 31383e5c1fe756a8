// For an editor that opens a kernel file by itself: the layer of the baseline, and its names. No build includes it.
#pragma once

#define DVAE_KERNELS "simd/no_kernels.h"
#include "simd/foreach_target.h"

#define DVAE_TARGET baseline
#define DVAE_SIMD_BASELINE 1
using namespace dvae;
using namespace dvae::baseline;
