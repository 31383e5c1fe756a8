"""Quantized rows and their gradients in Triton: a row of a tile to a row, in a loop over tiles of columns.

The rotation needs its sums before the gradient, so its rows are read again, from cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dvae_kernels._indices import MASKED
from dvae_kernels._rows import with_unit_columns
from dvae_kernels._triton.rows import acc, column_tiles, launch
from dvae_kernels.ops.vector_quantize.schemas import new_gradients, new_quantized

_WARPS = 4
_MASKED = tl.constexpr(MASKED)


@triton.jit
def _vector_quantize_fwd_kernel(
    x_ptr, codebook_ptr, index_ptr, quantized_ptr, codes_ptr, error_ptr, rows, K, D, x_stride, codebook_stride,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    mask = row < rows
    index = tl.load(index_ptr + row, mask=mask, other=_MASKED)
    inside = (index >= 0) & (index < K)
    fill = tl.where(index == _MASKED, 0.0, float("nan")).to(ACC)
    error = tl.zeros([ROWS, BLOCK_D], ACC)  # [R, D]
    nothing = tl.zeros([ROWS, BLOCK_D], ACC)  # NaN where x is not finite
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        used = inside & (col < D)
        x = tl.load(x_ptr + row * x_stride + col, mask=used, other=0.0).to(ACC)
        code = tl.load(codebook_ptr + index * codebook_stride + col, mask=used, other=0.0)
        difference = x - code.to(ACC)
        error += difference * difference
        nothing += x - x
        value = tl.where(inside, code.to(ACC), fill)
        tl.store(quantized_ptr + row * D + col, value.to(quantized_ptr.dtype.element_ty), mask=mask & (col < D))
        if codes_ptr is not None:
            tl.store(codes_ptr + row * D + col, value.to(codes_ptr.dtype.element_ty), mask=mask & (col < D))
    total = tl.sum(error, 1)[:, None]
    finite = tl.sum(nothing, 1)[:, None] == 0
    total = tl.where(inside, tl.where(finite, total, float("nan")), fill)
    tl.store(error_ptr + row, total, mask=mask)
    nan = tl.full([ROWS, BLOCK_D], float("nan"), ACC)
    # rare: only rows with a non-finite column are overwritten with NaN
    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        bad = mask & ~finite & (col < D)
        tl.store(quantized_ptr + row * D + col, nan.to(quantized_ptr.dtype.element_ty), mask=bad)
        if codes_ptr is not None:
            tl.store(codes_ptr + row * D + col, nan.to(codes_ptr.dtype.element_ty), mask=bad)


@triton.jit
def _load(ptr, row, col, stride, mask, ACC: tl.constexpr):
    return tl.load(ptr + row * stride + col, mask=mask, other=0.0).to(ACC)


@triton.jit
def _is_square(x):
    """Of a norm that is far from the ends of float32."""
    return (x > 7.52316384526264e-37) & (x < 1.329227995784916e36)


@triton.jit
def _vector_quantize_bwd_kernel(
    x_ptr, codes_ptr, index_ptr, grad_ptr, grad_loss_ptr, dx_ptr, dcodes_ptr, rows, D, x_stride, codes_stride,
    grad_stride, commitment_weight, codebook_weight, weights_ptr, COMMITS: tl.constexpr, ROTATION: tl.constexpr,
    ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    mask = row < rows
    real = tl.load(index_ptr + row, mask=mask, other=_MASKED) != _MASKED
    zero = tl.zeros([ROWS, 1], ACC)
    loss = zero
    if grad_loss_ptr is not None:
        loss = 2.0 * tl.load(grad_loss_ptr + row, mask=real, other=0.0)
    if weights_ptr is None:
        slope, code_slope = loss * commitment_weight, loss * codebook_weight
    else:
        slope, code_slope = loss * tl.load(weights_ptr), loss * tl.load(weights_ptr + 1)

    exists = real
    x_inverse, code_inverse, stretch, by_half_way, by_x = zero, zero, zero, zero, zero
    if ROTATION:
        xx, cc = tl.zeros([ROWS, BLOCK_D], ACC), tl.zeros([ROWS, BLOCK_D], ACC)
        for start in range(0, TILES * BLOCK_D, BLOCK_D):
            col = start + tl.arange(0, BLOCK_D)[None, :]
            x = _load(x_ptr, row, col, x_stride, real & (col < D), ACC)
            code = _load(codes_ptr, row, col, codes_stride, real & (col < D), ACC)
            xx += x * x
            cc += code * code
        x_square, code_square = tl.sum(xx, 1)[:, None], tl.sum(cc, 1)[:, None]
        exists = exists & _is_square(x_square) & _is_square(code_square)
        x_inverse = 1.0 / tl.sqrt(tl.where(exists, x_square, 1.0))
        code_inverse = 1.0 / tl.sqrt(tl.where(exists, code_square, 1.0))
        ss, sg, cg = tl.zeros([ROWS, BLOCK_D], ACC), tl.zeros([ROWS, BLOCK_D], ACC), tl.zeros([ROWS, BLOCK_D], ACC)
        for start in range(0, TILES * BLOCK_D, BLOCK_D):
            col = start + tl.arange(0, BLOCK_D)[None, :]
            x = _load(x_ptr, row, col, x_stride, exists & (col < D), ACC)
            code = _load(codes_ptr, row, col, codes_stride, exists & (col < D), ACC)
            g = _load(grad_ptr, row, col, grad_stride, exists & (col < D), ACC)
            half_way = x * x_inverse + code * code_inverse
            ss += half_way * half_way
            sg += half_way * g
            cg += code * g
        square = tl.sum(ss, 1)[:, None]
        exists = exists & (square > 2.3283064365386963e-10)
        stretch = x_inverse / code_inverse
        by_half_way = -2.0 * stretch * tl.sum(sg, 1)[:, None] / tl.where(exists, square, 1.0)
        by_x = 2.0 * stretch * x_inverse * (code_inverse * tl.sum(cg, 1)[:, None])

    for start in range(0, TILES * BLOCK_D, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        used, inside = real & (col < D), mask & (col < D)
        dx = tl.zeros([ROWS, BLOCK_D], ACC)  # [R, D]
        if COMMITS or ROTATION or dcodes_ptr is not None:
            x = _load(x_ptr, row, col, x_stride, used, ACC)
            code = _load(codes_ptr, row, col, codes_stride, used, ACC)
        if grad_ptr is not None:
            dx = _load(grad_ptr, row, col, grad_stride, used, ACC)
            if ROTATION:
                half_way = x * x_inverse + code * code_inverse
                dx = tl.where(exists, stretch * dx + (by_half_way * half_way + by_x * x), dx)
        if COMMITS:
            dx += slope * (x - code)
        tl.store(dx_ptr + row * D + col, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        if dcodes_ptr is not None:
            dcodes = tl.where(code == code, code_slope * (code - x), 0.0)
            tl.store(dcodes_ptr + row * D + col, dcodes, mask=inside)


def vector_quantize_fwd(
    x: Tensor, codebook: Tensor, indices: Tensor, keep_codes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = x.shape
    quantized, codes, errors = new_quantized(x, codebook, keep_codes)
    if x.numel() == 0:
        return quantized, codes, errors
    x, codebook = with_unit_columns(x), with_unit_columns(codebook)
    tile = column_tiles(columns, x.itemsize, _WARPS)
    launch(
        _vector_quantize_fwd_kernel, triton.cdiv(rows, tile["ROWS"]), x, codebook, indices.contiguous(), quantized,
        codes if keep_codes else None, errors, rows, codebook.shape[0], columns, x.stride(0), codebook.stride(0),
        ACC=acc(x.dtype), **tile,
    )  # fmt: skip
    return quantized, codes, errors


def vector_quantize_bwd(
    grad: Tensor | None, grad_losses: Tensor | None, x: Tensor, codes: Tensor, indices: Tensor,
    commitment_weight: float, codebook_weight: float, rotation: bool, codes_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows, columns = x.shape
    dx, dcodes = new_gradients(x, codes_grad)
    learns = codes_grad and grad_losses is not None
    if not learns:  # without losses zeros, also where x - c overflows
        dcodes.zero_()
    if x.numel() == 0:
        return dx, dcodes
    x, codes = with_unit_columns(x), with_unit_columns(codes)
    grad = None if grad is None else with_unit_columns(grad)
    grad_losses = None if grad_losses is None else grad_losses.contiguous()
    weights = None  # Triton passes a Python float in float32
    if x.dtype == torch.float64:
        weights = torch.tensor((commitment_weight, codebook_weight), dtype=x.dtype, device=x.device)
    tile = column_tiles(columns, x.itemsize, _WARPS)
    launch(
        _vector_quantize_bwd_kernel, triton.cdiv(rows, tile["ROWS"]), x, codes, indices.contiguous(), grad, grad_losses,
        dx, dcodes if learns else None, rows, columns, x.stride(0), codes.stride(0),
        0 if grad is None else grad.stride(0), commitment_weight, codebook_weight, weights,
        COMMITS=grad_losses is not None and commitment_weight != 0, ROTATION=rotation and grad is not None,
        ACC=acc(x.dtype), **tile,
    )  # fmt: skip
    return dx, dcodes
