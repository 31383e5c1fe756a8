"""Whether kernels run in Triton's interpreter, which knows neither libdevice nor inline assembly."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
