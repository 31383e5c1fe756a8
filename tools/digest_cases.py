"""The battery of tools/digests.py: for every raw op, the calls whose outputs are recorded.

A case is a name and the raw op's arguments. The metric is a string; tools/digests.py makes of it what the schema takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from digest_inputs import FP64, KINDS, SIZES, Rows, Types, elements, laid_out, normal, rows, special_elements, words

Case = tuple[str, tuple[Any, ...]]


def gumbel_softmax_fwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, key, offset, *tau in work.draws:
            for hard in (False, True):
                args = (work.logits, key, *tau, work.dim, hard, offset, types.wide)
                yield f"{name}{' hard' * hard}", args


def gumbel_softmax_bwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, *tau in work.taus:
            yield f"{work.name} {name}", (work.grad(), work.sample, *tau, work.dim, types.narrow)
        for layout in ("expanded", "contiguous"):
            args = (work.grad(layout), work.sample, None, 0.7, work.dim, types.narrow)
            yield f"{work.name} {layout} grad", args


def gumbel_softmax_recompute_bwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, key, offset, *tau in work.draws:
            args = (work.dim, offset, offset != 5 or work.full)
            yield name, (work.grad(), work.logits, key, *tau, *args)
        args = (work.logits, None, *work.taus[1][1:], work.dim, 0, True)
        yield f"{work.name} no key", (work.grad("expanded"), *args)


def gumbel_argmax(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, key, offset in work.noises:
            yield f"{work.name} {name}", (work.logits, key, work.dim, offset)


def gumbel_onehot(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, key, offset in work.noises:
            yield f"{work.name} {name}", (work.logits, key, work.dim, offset, types.wide)


def reinmax_bwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, *tau in work.taus:
            yield f"{work.name} {name}", (work.grad(), work.logits, work.index, *tau, work.dim)
        yield f"{work.name} expanded grad", (work.grad("expanded"), work.logits, work.index, None, 1.3, work.dim)


def gumbel_rao_bwd(types: Types) -> Iterator[Case]:
    for work in rows(types, big=False):
        for i, (name, key, offset, *tau) in enumerate(work.draws):
            args = (*tau, work.dim, (1, 3)[i % 2], offset)
            yield name, (work.grad(), work.logits, key, work.index, *args)
    if not types.small:
        for shape, dim in (((1, 262144), 1), ((257, 65), 1), ((2, 65, 129), 1)):
            work = Rows("x".join(map(str, shape)), types, shape, dim, "contiguous", False, False)
            key = work.noises[0][1]
            yield work.name, (work.grad(), work.logits, key, work.index, None, 0.7, dim, 2, 0)


def _priors(work: Rows) -> Iterator[tuple[str, Tensor | None]]:
    yield "no prior", None
    yield "prior", work.tensor(normal(work.size, 6), work.types.narrow)
    if work.full:
        special = work.tensor(normal(work.size, 1), work.types.narrow)
        yield "prior for special rows", work.tensor(work.logits.movedim(work.dim, -1).flip(0), work.types.narrow)
        yield "prior of finite logits", special
        yield "same logits", work.logits
    yield "expanded prior", work.tensor(normal(work.size, 6), work.types.narrow, "expanded")


def categorical_kl_fwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, prior in _priors(work):
            yield f"{work.name} {name}", (work.logits, prior, work.dim)


def categorical_kl_bwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, prior in _priors(work):
            for prior_grad in (False, True)[: 1 if prior is None else 2]:
                args = (work.row_grad, work.logits, prior, work.dim, prior_grad)
                yield f"{work.name} {name}{' and its gradient' * prior_grad}", args


def gumbel_softmax_log_prob_fwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, *tau in work.taus:
            yield f"{work.name} {name}", (work.sample, work.logits, *tau, work.dim)


def gumbel_softmax_log_prob_bwd(types: Types) -> Iterator[Case]:
    for work in rows(types):
        for name, *tau in work.taus:
            for tau_grad in (False, True):
                args = (work.row_grad, work.sample, work.logits, *tau, work.dim, tau_grad)
                yield f"{work.name} {name}{' and its gradient' * tau_grad}", args


def binary_concrete_fwd(types: Types) -> Iterator[Case]:
    for work in elements(types):
        for name, key, offset, *tau in work.draws:
            for hard in (False, True):
                yield f"{name}{' hard' * hard}", (work.logits, key, *tau, hard, offset, types.wide)


def binary_concrete_bwd(types: Types) -> Iterator[Case]:
    for work in elements(types):
        for name, key, offset, *tau in work.draws:
            for tau_grad in (False, True):
                args = (work.grad(), work.logits, key, *tau, offset, tau_grad)
                yield f"{name}{' and its gradient' * tau_grad}", args
        args = (work.grad("expanded"), work.logits, key, None, 0.7, 0, True)
        yield f"{work.name} expanded grad", args


def binary_concrete_log_prob_fwd(types: Types) -> Iterator[Case]:
    for work in elements(types):
        for name, *tau in work.taus:
            yield f"{work.name} {name}", (work.unit(2, types.wide), work.logits, *tau)


def binary_concrete_log_prob_bwd(types: Types) -> Iterator[Case]:
    for work in elements(types):
        for name, *tau in work.taus:
            for tau_grad in (False, True):
                args = (work.grad(dtype=types.compute), work.unit(2, types.wide), work.logits, *tau, tau_grad)
                yield f"{work.name} {name}{' and its gradient' * tau_grad}", args


def _betas(types: Types, full: bool, each: Tensor) -> Iterator[tuple[str, Tensor | None, float]]:
    yield "beta=2", None, 2.0
    yield "betas", each, 0.0
    if full:
        values = (1.5, torch.nan, 0.0, 1e-40, 3e38, -1.0, torch.inf, 40.0)
        for value in values[: 2 if types.small else None]:
            yield f"beta=[{value}]", torch.tensor(value, dtype=types.compute), 0.0
    if full and not types.small:
        yield "beta=0.5", None, 0.5
        yield "beta=1e30", None, 1e30


def _smoothings(types: Types) -> Iterator[tuple[str, str, Any, Tensor | None, float]]:
    """(name, kind, work, beta twice)."""
    for work in elements(types, thorough=False):
        each = work.tensor(special_elements(normal(work.shape, 7).abs() + 0.5, FP64) if work.full
                           else normal(work.shape, 7).abs() + 0.5, types.compute)  # fmt: skip
        for kind in KINDS:
            for name, beta, value in _betas(types, work.full, each):
                yield f"{kind} {work.name} {name}", kind, work, beta, value


def _offsets(work: Any, beta_value: float) -> list[int]:
    return work.offsets[: 2 if work.types.small else None] if beta_value == 2.0 else work.offsets[:1]


def smoothing_fwd(types: Types) -> Iterator[Case]:
    for name, kind, work, *beta in _smoothings(types):
        noise, key = work.unit(5, types.compute), torch.tensor([0x0123456789ABCDEF, 7])
        yield f"{name} noise", (work.logits, noise, None, *beta, kind, 0, types.wide)
        for offset in _offsets(work, beta[1]):
            yield f"{name} offset{offset}", (work.logits, None, key, *beta, kind, offset, types.wide)


def smoothing_bwd(types: Types) -> Iterator[Case]:
    for name, kind, work, *beta in _smoothings(types):
        noise, key, grad = work.unit(5, types.compute), torch.tensor([0x0123456789ABCDEF, 7]), work.grad()
        beta_grad = beta[0] is not None or work.full
        with_noise = (beta_grad, kind != "power_mixture")
        yield f"{name} noise", (grad, work.logits, noise, None, *beta, kind, 0, *with_noise)
        grad = work.grad("expanded")
        for offset in _offsets(work, beta[1]):
            args = (*beta, kind, offset, beta_grad, False)
            yield f"{name} offset{offset}", (grad, work.logits, None, key, *args)


def smoothing_log_prob_fwd(types: Types) -> Iterator[Case]:
    for name, kind, work, *beta in _smoothings(types):
        yield name, (work.unit(2, types.wide), work.logits, *beta, kind)


def smoothing_log_prob_bwd(types: Types) -> Iterator[Case]:
    for name, kind, work, *beta in _smoothings(types):
        for beta_grad in (False, True)[not work.full :]:
            grad = work.grad(dtype=types.compute)
            args = (grad, work.unit(2, types.wide), work.logits, *beta, kind, beta_grad)
            yield f"{name}{' and its gradient' * beta_grad}", args


def matrix(shape: tuple[int, ...], seed: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    return laid_out(normal(shape, seed).to(dtype), layout)


def indices_of(count: int, codes: int, kind: str = "outside") -> Tensor:
    index = (words(count, 5) >> 3 & 0xFFFFF) % max(codes, 1)
    if kind == "one":
        index.fill_(codes // 2)
    if kind == "outside":
        index[1::5], index[2::11], index[3::13] = -1, codes, -2
    return index


def _matrices(types: Types) -> Iterator[tuple[str, Tensor, int]]:
    """(name, x [N, D], codes): sizes, layouts, and rows that are not finite."""
    narrow = types.narrow
    for columns in (1, 16, 37) if types.small else (*(size for size in SIZES if size < 1000), 8, 37, 400, 1031):
        for count in (5,) if types.small else (0, 1, 2, 17, 130):
            yield f"{count}x{columns}", matrix((count, columns), 1, narrow), 7
    yield "no columns", torch.zeros(5, 0, dtype=narrow), 7
    for layout in ("stepped", "transposed") if types.small else (
        "padded", "offset", "stepped", "transposed", "expanded", "constant"
    ):  # fmt: skip
        for columns in (5, 16):
            yield f"17x{columns} {layout}", matrix((17, columns), 1, narrow, layout), 3
    for columns in (5,) if types.small else (5, 16, 33):
        x = normal((40, columns), 1).clone()
        x[3, 0], x[5, -1], x[7, columns // 2], x[9], x[11] = (
            torch.nan,
            torch.inf,
            -torch.inf,
            0.0,
            torch.finfo(narrow).max,
        )
        yield f"40x{columns} special", x.to(narrow), 3
    yield "300x3", matrix((300, 3), 1, narrow), 7
    if not types.small:
        yield "2500x16", matrix((2500, 16), 1, narrow), 7
        yield "5000x33", matrix((5000, 33), 1, narrow), 1000
        yield "1031x260", matrix((1031, 260), 1, narrow), 3


def gather_codes(types: Types) -> Iterator[Case]:
    for name, book, _ in _matrices(types):
        for shape in ((0,), (17,), (3, 5, 2)):
            index = indices_of(torch.Size(shape).numel(), len(book)).view(shape)
            yield f"{name} {shape}", (book, index)
    yield "stepped indices", (book, indices_of(40, len(book))[::2])
    far = torch.tensor([3, -1, -2, 4, 1 << 62, -(1 << 62), 1 << 32, -(1 << 31) - 1])
    yield "far indices", (matrix((4, 16), 1, types.narrow), far)


def code_sums(types: Types) -> Iterator[Case]:
    for name, x, codes in _matrices(types):
        for kind in ("outside", "one", "random"):
            yield f"{name} {kind}", (x, indices_of(len(x), codes, kind), codes)
    yield "stepped indices", (matrix((40, 5), 1, types.narrow), indices_of(80, 7)[::2], 7)
    yield "no codes", (matrix((4, 5), 1, types.narrow), indices_of(4, 7), 0)


code_statistics = code_sums


def vector_quantize_fwd(types: Types) -> Iterator[Case]:
    for name, x, codes in _matrices(types):
        if not x.shape[1]:
            continue
        for layout in ("contiguous", "padded", "transposed"):
            book, index = matrix((codes, x.shape[1]), 2, types.wide, layout), indices_of(len(x), codes)
            for keep in (False, True):
                yield f"{name} {layout} book{' kept' * keep}", (x, book, index, keep)
        if name.endswith("special"):
            book = matrix((codes, x.shape[1]), 2, types.wide)
            book[0, 1], book[1, 0] = torch.nan, torch.inf
            yield f"{name} and special book", (x, book, index, True)


def vector_quantize_bwd(types: Types) -> Iterator[Case]:
    for name, x, _ in _matrices(types):
        if not x.shape[1]:
            continue
        index, codes, losses = indices_of(len(x), 7), matrix(tuple(x.shape), 2, types.wide), normal((len(x),), 4)
        codes[2:3, 0] = torch.nan
        if name.endswith("special"):
            codes[12], codes[13], codes[14] = -2 * x[12].to(codes.dtype), 0, x[14].to(codes.dtype)
        losses, grad = losses.to(types.compute), matrix(tuple(x.shape), 3, x.dtype)
        expanded = laid_out(grad, "expanded")
        for i, (grads, *options) in enumerate((
            ((grad, losses), 0.25, 0.5, True, True), ((grad, None), 0.25, 0.5, True, False),
            ((expanded, losses), 0.0, 0.5, False, True), ((None, losses), 2.0, 0.0, True, False),
            ((grad, losses), 0.25, 0.0, False, False),
        )):  # fmt: skip
            yield f"{name} options{i}", (*grads, x, codes, index, *options)


_COLUMNS = (1, 2, 3, 4, 5, 7, 8, 13, *(size for size in SIZES if 13 < size < 200), 100, 256, 257, 300, 400)


def _searches(types: Types) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, x [H, N, D], codebook [H, K, D])."""

    def data(
        heads: int, count: int, codes: int, columns: int, layout: str = "contiguous"
    ) -> tuple[str, Tensor, Tensor]:
        x = matrix((heads, count, columns), 1, types.narrow, layout)
        return f"{heads}x{count}x{codes}x{columns} {layout}", x, matrix((heads, codes, columns), 2, types.wide, layout)

    if types.small:
        for heads, count, codes, columns in ((1, 5, 3, 1), (1, 17, 140, 8), (2, 3, 33, 37)):
            yield data(heads, count, codes, columns)
    else:
        shapes = [(1, 17, codes, columns) for columns in _COLUMNS for codes in (5, 129)]
        shapes += [(1, 17, codes, columns) for columns in (8, 37) for codes in SIZES]
        shapes += [(2, count, 65, columns) for columns in (8, 37) for count in (0, 1, 2, 15, 16, 31, 70, 260)]
        for shape in dict.fromkeys([*shapes, (1, 600, 1000, 40), (3, 130, 300, 65)]):
            yield data(*shape)
        for layout in ("padded", "offset", "stepped", "transposed", "rotated", "channels_last", "expanded"):
            yield data(2, 17, 65, 13, layout)
            yield data(3, 5, 33, 64, layout)
    for count, codes, columns in ((20, 33, 5),) if types.small else ((20, 140, 5), (20, 300, 16), (20, 33, 65)):
        x, book = data(1, count, codes, columns)[1:]
        limits, size = torch.finfo(types.narrow), f"{count}x{codes}x{columns}"
        duplicated = book[:, : codes // 2].repeat(1, 2, 1)
        yield f"{size} duplicated", x, duplicated
        yield f"{size} equal codes", x, book[:, :1].repeat(1, codes, 1)
        yield f"{size} x of codes", duplicated[:, :count].to(types.narrow), duplicated
        grid = torch.arange(columns) % 3 - 1.0
        yield f"{size} grid", (x * 0).round() + grid.to(x.dtype), (book * 2).round()
        wide = types.narrow in (torch.float32, FP64) and not types.small
        for scale in (2.0**-12, 2.0**-100, 2.0**60, 2.0**100) if wide else (2.0**-12,):
            yield f"{size} scale{scale}", x * scale, book * scale
        x, book = x.clone(), book.clone()
        book[0, 1, 1], book[0, 5, 0], book[0, 7, -1], book[0, 9] = torch.nan, torch.inf, -torch.inf, 0
        x[0, 3, 2], x[0, 4, 0], x[0, 5, -1], x[0, 6], x[0, 7] = torch.nan, torch.inf, -torch.inf, limits.max, 0
        yield f"{size} special", x, book
        yield f"{size} NaN codes", x, book * torch.nan
        yield f"{size} negative and zero codes", x, torch.cat([book[:, 10:12] * 0, -book[:, 10:20].abs()], 1)


def nearest_code(types: Types) -> Iterator[Case]:
    for name, x, book in _searches(types):
        for metric in ("l2", "cosine"):
            yield f"{name} {metric}", (x, book, metric, "exact", True)
    for precision in ("fp32", "bf16"):
        yield f"{name} {precision}", (x, book, "l2", precision, True)
    yield f"{name} without score", (x, book, "l2", "exact", False)


def sample_codes(types: Types) -> Iterator[Case]:
    for name, x, book in _searches(types):
        for i, metric in enumerate(("l2", "cosine")):
            yield f"{name} {metric}", (x, book, torch.tensor([3, -i]), metric, None, (1.0, 0.05)[i], (0, 5)[i])
    for temperature in (1e-30, 1e30):
        yield (
            f"{name} temperature{temperature}",
            (x, book, torch.tensor([3, 4]), "l2", None, temperature, (1 << 32) - 20),
        )


def _embeddings(types: Types) -> Iterator[tuple[str, Rows, Tensor]]:
    """(name, logits [outer, K, inner], codebook [K, D])."""
    shapes = [(2, 7, 3), (3, 33, 1), (0, 3, 2), (1, 1, 4), (2, 130, 5), (5, 8, 16)]
    for shape in shapes[:2] if types.small else shapes:
        for layout in ("contiguous", "channels_last"):
            for columns in (1, 5, 16):
                work = Rows(f"{'x'.join(map(str, shape))} {layout}", types, shape, 1, layout, False, False)
                yield f"{work.name} {columns} columns", work, matrix((shape[1], columns), 8, types.wide)
    work = Rows("4x9x5 special", types, (4, 9, 5), 1, "contiguous", True, True)
    yield work.name, work, matrix((9, 6), 8, types.wide)
    if types.name == "fp32" and not types.small:  # more than one block
        work = Rows("3x1031x400", types, (3, 1031, 400), 1, "contiguous", False, False)
        yield work.name, work, matrix((1031, 8), 8, types.wide)


def gumbel_softmax_embed_fwd(types: Types) -> Iterator[Case]:
    for name, work, book in _embeddings(types):
        for i, (label, key, offset, *tau) in enumerate(work.draws):
            for hard in (False, True):
                args = (work.logits, book, key, *tau, hard, offset, types.wide, i % 2 == 0, i % 3 < 2)
                yield f"{name} {label}{' hard' * hard}", args


def gumbel_softmax_embed_bwd(types: Types) -> Iterator[Case]:
    for name, work, book in _embeddings(types):
        outer, _, inner = work.shape
        grad = matrix((outer, book.shape[1], inner), 9, types.wide)
        grad_kl, index = work.row_grad, work.index
        for i, (label, key, offset, *tau) in enumerate(work.draws):
            grads = ((grad, grad_kl), (grad, None), (None, grad_kl))[i % 3]
            args = (book, index, key, *tau, offset, types.narrow, True, i % 2 == 0, i % 4 < 2)
            yield f"{name} {label}", (*grads, work.logits, None, *args)
        args = (book, index, key, None, 0.7, 0, types.narrow, True, True, False)
        yield f"{name} with sample", (grad, None, None, work.sample, *args)


def ema_update_(types: Types) -> Iterator[Case]:
    """Not a raw op: the public function, on copies, with its keywords as the last argument."""
    for shape in ((7, 5), (2, 33, 16), (1, 1), (3, 1000, 8)):
        sizes, compute = shape[:-1], types.compute
        counts = (normal(sizes, 3).abs() * 4).floor().to(compute)
        state = (matrix(shape, 1, types.wide), normal(sizes, 2).abs().to(compute), matrix(shape, 4, compute))
        for i, options in enumerate((
            {}, {"decay": 0.0}, {"decay": 1.0}, {"decay": 0.5, "laplace": 1e-5}, {"laplace": 0.1, "steps": 3},
            {"laplace": 1e-3, "steps": torch.tensor(2)},
        )):  # fmt: skip
            yield f"{'x'.join(map(str, shape))} options{i}", (*state, counts, matrix(shape, 5, compute), options)


CASES: dict[str, Callable[[Types], Iterator[Case]]] = {
    function.__name__: function
    for function in (
        gumbel_softmax_fwd, gumbel_softmax_bwd, gumbel_softmax_recompute_bwd, gumbel_argmax, gumbel_onehot,
        gumbel_softmax_log_prob_fwd, gumbel_softmax_log_prob_bwd, gumbel_softmax_embed_fwd, gumbel_softmax_embed_bwd,
        reinmax_bwd, gumbel_rao_bwd, categorical_kl_fwd, categorical_kl_bwd, binary_concrete_fwd, binary_concrete_bwd,
        binary_concrete_log_prob_fwd, binary_concrete_log_prob_bwd, smoothing_fwd, smoothing_bwd,
        smoothing_log_prob_fwd, smoothing_log_prob_bwd, gather_codes, code_sums, vector_quantize_fwd,
        vector_quantize_bwd, nearest_code, sample_codes, ema_update_,
    )
} | {"code_statistics": code_statistics}  # fmt: skip


def cases_of(op: str, types: Types) -> Iterator[Case]:
    seen: set[str] = set()
    for name, args in CASES[op](types):
        name = f"{types.name} {name}"
        assert name not in seen, f"two cases of {op} are called {name}"
        seen.add(name)
        yield name, args
