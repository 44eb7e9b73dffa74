"""Random cases of the Triton kernels under the interpreter: values and every gradient against float64, and no access
outside of a tensor; outputs start as NaN.

TRITON_INTERPRET=1 python tests/kernels/kernel_fuzz.py [--op NAME] [--cases 20] [--seed 0] [--out FILE.json]
Exit code 1 when a case failed. The tests run a few of the same cases.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from memory_checker import checked

from nas import kernels

LIMITS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}


@dataclass(frozen=True)
class Case:
    """One call: `run(*tensors)`; tensors that are None are left out of the gradients.

    `roundings`: how often a value is rounded on its way to the result.
    """

    words: str
    tensors: list[torch.Tensor | None]
    run: Callable[..., torch.Tensor]
    launches: set[str]
    roundings: int = 1


def depthwise_conv2d(rng: random.Random, dtype: torch.dtype) -> Case:
    """Any size and stride, odd and even filters, larger than the map too, channels of any count, all epilogues."""
    kernel = [rng.choice((1, 2, 3, 3, 5)) for _ in "hw"]
    stride, padding = [rng.choice((1, 1, 2, 3)) for _ in "hw"], [rng.randrange(0, k + 1) for k in kernel]
    size = [max(1, k - 2 * p) + rng.randrange(0, 6) for k, p in zip(kernel, padding, strict=True)]
    n, c = rng.choice((1, 2, 3)), rng.choice((1, 3, 8, 17, 70))
    x, weight = layout(rng, dtype, n, c, *size), torch.randn(c, 1, *kernel, dtype=dtype)
    bias = spaced(dtype, c) if rng.random() < 0.5 else None
    out = [(h + 2 * p - k) // s + 1 for h, p, k, s in zip(size, padding, kernel, stride, strict=True)]
    gate = layout(rng, dtype, n, rng.randrange(1, c + 1), *out) if rng.random() < 0.4 else None
    scale = rng.choice((1.0, 1 / 3))

    def run(x, weight, bias, gate):
        return kernels.depthwise_conv2d(x, weight, bias, tuple(stride), tuple(padding), scale, gate)

    words = f"{n}x{c}x{size} K={kernel} s={stride} p={padding} bias={bias is not None} gate={gate is not None}"
    return Case(words, [x, weight, bias, gate], run, {"window_sum", "window_partials"})


def involution(rng: random.Random, dtype: torch.dtype) -> Case:
    """Any rectangular kernel, stride, dilation and group width; weights in any order of memory."""
    kernel, dilation = [rng.choice((1, 2, 3, 3, 5)) for _ in "hw"], [rng.choice((1, 1, 2, 3)) for _ in "hw"]
    stride = [rng.choice((1, 1, 2, 3)) for _ in "hw"]
    padding = [rng.randrange(0, 2 + d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    reach = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + rng.randrange(0, 6) for low in reach]
    geometry = zip(size, padding, dilation, kernel, stride, strict=True)
    out = [(h + 2 * p - d * (k - 1) - 1) // s + 1 for h, p, d, k, s in geometry]
    n, groups, width = rng.choice((1, 2)), rng.choice((1, 2, 5)), rng.choice((1, 3, 4, 16, 40))
    x = layout(rng, dtype, n, groups * width, *size)
    order = rng.choice(((0, 1, 2, 3, 4, 5), (0, 4, 5, 1, 2, 3), (0, 4, 5, 3, 2, 1), (5, 0, 3, 1, 4, 2)))
    shape = (n, groups, *kernel, *out)
    weight = torch.randn([shape[d] for d in order], dtype=dtype).permute([order.index(d) for d in range(6)])

    def run(x, weight):
        return kernels.involution(x, weight, tuple(stride), tuple(padding), tuple(dilation))

    words = f"{n}x{groups}*{width}x{size} K={kernel} s={stride} d={dilation} p={padding} order={order}"
    return Case(words, [x, weight], run, {"window_sum", "window_product"})


def spanned_involution(rng: random.Random, dtype: torch.dtype) -> Case:
    """Any rectangular kernel, stride, dilation, group width and count, with and without a bias."""
    kernel, dilation = [rng.choice((1, 2, 3, 3)) for _ in "hw"], [rng.choice((1, 1, 2)) for _ in "hw"]
    stride = [rng.choice((1, 1, 2)) for _ in "hw"]
    padding = [rng.randrange(0, 2 + d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    reach = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + rng.randrange(0, 6) for low in reach]
    sizes = zip(size, padding, dilation, kernel, stride, strict=True)
    out = [(h + 2 * p - d * (k - 1) - 1) // s + 1 for h, p, d, k, s in sizes]
    n, groups, width = rng.choice((1, 2)), rng.choice((1, 2, 5, 18)), rng.choice((1, 3, 16))
    num_features = rng.choice((1, 5, 16, 33))
    rows = groups * kernel[0] * kernel[1]
    x, features = layout(rng, dtype, n, groups * width, *size), layout(rng, dtype, n, num_features, *out)
    weight = (torch.randn(rows, num_features, 1, 1) / num_features**0.5).to(dtype)
    bias = spaced(dtype, rows) if rng.random() < 0.5 else None

    def run(x, features, weight, bias):
        geometry = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation))
        return kernels.spanned_involution(x, features, weight, bias, *geometry)

    words = f"{n}x{groups}*{width}x{size} from {num_features} K={kernel} s={stride} d={dilation} p={padding}"
    return Case(words, [x, features, weight, bias], run, {"spanned_window_sum", "window_sum", "window_product"})


def gnconv_gate(rng: random.Random, dtype: torch.dtype) -> Case:
    """Any widths; y and a as slices of wider maps too."""
    n, inner, outer = rng.choice((1, 2)), rng.choice((1, 5, 16, 33, 70)), rng.choice((1, 8, 33, 130))
    size = [rng.randrange(1, 13) for _ in "hw"]
    y, a = layout(rng, dtype, n, inner, *size), layout(rng, dtype, n, outer, *size)
    weight = torch.randn(outer, inner, 1, 1, dtype=dtype)
    bias = spaced(dtype, outer) if rng.random() < 0.5 else None
    return Case(f"{n}x{inner}->{outer}x{size}", [y, a, weight, bias], kernels.gnconv_gate, {"gated_product"})


def gnconv_recursion(rng: random.Random, dtype: torch.dtype) -> Case:
    """One to four steps of any widths, each with a bias or without; y and a as slices of wider maps too."""
    n, size = rng.choice((1, 2)), [rng.randrange(1, 9) for _ in "hw"]
    # of few channels the gradient of a bias is few sums, which half precision may cancel out
    wide = dtype in (torch.float32, torch.float64)
    widths = [rng.choice((1, 5, 16, 33, 70) if wide else (16, 33, 70)) for _ in range(rng.randrange(2, 6))]
    out = rng.choice((1, 8, 33, 130))
    y, a = layout(rng, dtype, n, widths[0], *size), layout(rng, dtype, n, sum(widths[1:]), *size)
    matrices = [(torch.randn(o, i, 1, 1) / i**0.5).to(dtype) for i, o in zip(widths, [*widths[1:], out], strict=True)]
    biases = [spaced(dtype, len(m)) if rng.random() < 0.5 else None for m in matrices]

    def run(y, a, *tensors):
        *weights, last = tensors[: len(matrices)]
        *others, out_bias = tensors[len(matrices) :]
        return kernels.gnconv_recursion(y, a, weights, others, last, out_bias)

    ran = {"recursive_gates", "gated_product"}  # the second in the backward pass
    return Case(f"{n}x{widths}->{out}x{size}", [y, a, *matrices, *biases], run, ran, roundings=len(widths))


def self_calibrated_gate(rng: random.Random, dtype: torch.dtype) -> Case:
    """Any map and any coarser one, also of sizes that do not divide; every layout."""
    n, c = rng.choice((1, 2)), rng.choice((1, 3, 8, 33, 70))
    size = [rng.randrange(1, 15) for _ in "hw"]
    small = [rng.choice((1, rng.randrange(1, s + 1), max(1, s // 4))) for s in size]
    x, k3, k2 = (layout(rng, dtype, n, c, *shape) for shape in (size, size, small))
    return Case(f"{n}x{c}x{size} over {small}", [x, k3, k2], kernels.self_calibrated_gate, {"calibrated_gate"})


def global_filter(rng: random.Random, dtype: torch.dtype) -> Case:
    """Maps of one pixel to 17 rows and columns, odd and even; the weight is float32 beside half precision."""
    n, c = rng.choice((1, 2, 3)), rng.choice((1, 3, 8, 17))
    size = [rng.choice((1, 2, 3, 7, 8, 13, 16, 17)) for _ in "hw"]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, weight = layout(rng, dtype, n, c, *size), torch.randn(c, size[0], size[1] // 2 + 1, 2, dtype=wide)
    return Case(f"{n}x{c}x{size}", [x, weight], kernels.global_filter, {"filtered_maps", "filter_gradient"})


def odconv2d(rng: random.Random, dtype: torch.dtype, form: str = "mixed") -> Case:
    """Any rectangular kernel, stride and dilation, dense, grouped and depthwise, with any of the four factors."""
    kernel, dilation = [rng.choice((1, 2, 3, 3)) for _ in "hw"], [rng.choice((1, 1, 2)) for _ in "hw"]
    stride = [rng.choice((1, 1, 2, 3)) for _ in "hw"]
    padding = [rng.randrange(0, 2 + d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    reach = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + rng.randrange(0, 6) for low in reach]
    n, num_kernels, groups = rng.choice((1, 2, 3)), rng.choice((1, 2, 4)), rng.choice((1, 1, 1, 2, 5))
    groups = 1 if form == "n_fold" else groups
    # of few channels the gradient of a factor is few sums of what was rounded, which half precision may cancel out
    narrow = form == "mixed" or dtype in (torch.float32, torch.float64)
    inner, into = (rng.choice((1, 3, 8, 17, 33) if narrow else (17, 33, 70)) for _ in range(2))
    x = layout(rng, dtype, n, groups * inner, *size)
    weight = (torch.randn(num_kernels, groups * into, inner, *kernel) / inner**0.5).to(dtype)
    lengths = (groups * inner, groups * into, kernel[0] * kernel[1], num_kernels)
    given = [rng.random() < 0.8 for _ in range(3)] + [rng.random() < 0.8]
    given[3] |= not given[2]  # else there is one kernel for all
    factors = [torch.rand(n, length).to(dtype) if there else None for length, there in zip(lengths, given, strict=True)]

    def run(x, weight, *factors):
        options = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
        return kernels.odconv2d(x, weight, *factors, form=form, **options)

    words = (
        f"{n}x{groups}*{inner}x{size}->{into} n={num_kernels} K={kernel} s={stride} d={dilation} p={padding} {given}"
    )
    if form == "n_fold":
        # x and the result times their factors
        return Case(words, [x, weight, *factors], run, {"folded_product", "folded_outer"}, roundings=3)
    ran = {"convolution_product", "sampled_outer", "mixed_kernels", "mixing_gradients"}
    # the mixed kernels, then the result; with groups x times its channels' factors too
    return Case(words, [x, weight, *factors], run, ran, roundings=2 + (groups > 1))


def odconv2d_n_fold(rng: random.Random, dtype: torch.dtype) -> Case:
    """The same by shared kernels, which are dense."""
    return odconv2d(rng, dtype, "n_fold")


def conv2d(rng: random.Random, dtype: torch.dtype) -> Case:
    """Any rectangular kernel, stride, dilation and groups, with any of bias, scale, shift, residual and activation."""
    kernel, dilation = [rng.choice((1, 2, 3, 3)) for _ in "hw"], [rng.choice((1, 1, 2)) for _ in "hw"]
    stride = [rng.choice((1, 1, 2, 3)) for _ in "hw"]
    padding = [rng.randrange(0, 2 + d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    reach = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [low + rng.randrange(0, 6) for low in reach]
    n, groups = rng.choice((1, 2, 3)), rng.choice((1, 1, 2, 5))
    # of few channels the gradient of a scale is few sums, which half precision may cancel out
    wide = dtype in (torch.float32, torch.float64)
    inner, into = rng.choice((1, 3, 8, 17, 33)), rng.choice((1, 3, 8, 17, 33) if wide else (8, 17, 33))
    x = layout(rng, dtype, n, groups * inner, *size)
    weight = (torch.randn(groups * into, inner, *kernel) / inner**0.5).to(dtype)
    bias, scale, shift = (spaced(dtype, groups * into) if rng.random() < 0.6 else None for _ in range(3))
    # where a map is rounded to half precision, a value beside a bend may come to lie on its other side
    bent = ("relu", "relu6") if wide else ()
    activation = rng.choice((None, "silu", "gelu", "sigmoid", *bent))

    out = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    residual = layout(rng, dtype, n, groups * into, *out) if rng.random() < 0.4 else None

    def run(x, weight, bias, scale, shift, residual):
        options = (tuple(stride), tuple(padding), tuple(dilation), groups, scale, shift, activation, residual)
        return kernels.conv2d(x, weight, bias, *options)

    words = f"{n}x{groups}*{inner}x{size}->{into} K={kernel} s={stride} d={dilation} p={padding} {activation}"
    return Case(words, [x, weight, bias, scale, shift, residual], run, {"convolution_product"}, roundings=2)


CASES = {
    "conv2d": conv2d,
    "odconv2d": odconv2d,
    "odconv2d_n_fold": odconv2d_n_fold,
    "self_calibrated_gate": self_calibrated_gate,
    "depthwise_conv2d": depthwise_conv2d,
    "involution": involution,
    "spanned_involution": spanned_involution,
    "gnconv_gate": gnconv_gate,
    "gnconv_recursion": gnconv_recursion,
    "global_filter": global_filter,
}


def spaced(dtype: torch.dtype, length: int) -> torch.Tensor:
    """Normal values [length] that do not lie next to each other."""
    return torch.randn(length, 2, dtype=dtype)[:, 0]


def layout(rng: random.Random, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Normal values of shape [n,c,h,w], contiguous, channels_last, a slice of more channels or columns, transposed."""
    n, c, h, w = shape
    kind = rng.choice(("contiguous", "last", "last", "slice", "columns", "transposed"))
    if kind == "contiguous":
        return torch.randn(n, c, h, w, dtype=dtype)
    if kind == "last":
        return torch.randn(n, h, w, c, dtype=dtype).permute(0, 3, 1, 2)
    if kind == "slice":
        return torch.randn(n, h, w, c + 5, dtype=dtype).permute(0, 3, 1, 2)[:, 3 : c + 3]
    if kind == "columns":
        return torch.randn(n, h, w + 2, c, dtype=dtype).permute(0, 3, 1, 2)[:, :, :, 1:-1]
    return torch.randn(n, c, w, h, dtype=dtype).transpose(2, 3)


def run_case(op: str, seed: int, values: int = 0) -> dict:
    """Runs one case; raises AssertionError where a value, a gradient, a memory access or the provider is wrong. Other
    `values` are other tensors of the same sizes."""
    rng = random.Random(f"{op} {seed}")
    torch.manual_seed(seed + values)
    dtype = list(LIMITS)[seed % 4]
    case = CASES[op](rng, dtype)
    ours = [None if t is None else t.detach().requires_grad_() for t in case.tensors]
    exact = [None if t is None else t.detach().double().requires_grad_() for t in case.tensors]
    start = time.process_time()
    with backend("triton"), checked() as watch:
        y = case.run(*ours)
        grad = torch.randn_like(y)
        grads = torch.autograd.grad(y, [t for t in ours if t is not None], grad)
    seconds = time.process_time() - start
    with backend("reference"):
        z = case.run(*exact)
        exact_grads = torch.autograd.grad(z, [t for t in exact if t is not None], grad.double())
    where = f"{op} seed {seed} {dtype} {case.words}"
    assert set(watch.launches) == case.launches, f"{where}: {set(watch.launches)} ran, not {case.launches}"
    errors = [distance(y.detach(), z.detach())]
    errors += [distance(mine, theirs) for mine, theirs in zip(grads, exact_grads, strict=True)]
    # a gradient of half precision is rounded once more on its way
    limit = case.roundings * LIMITS[dtype]
    limits = [limit] + [2 * limit] * len(grads)
    assert all(e <= most for e, most in zip(errors, limits, strict=True)), f"{where}: relative errors {errors}"
    return {
        "dtype": str(dtype),
        "error": max(errors),
        "lanes": watch.lanes,
        "seconds": seconds,
        "kernels": watch.launches,
    }


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error in the Euclidean norm; infinite for a value that is not finite."""
    error = ((actual.double() - expected).norm() / (expected.norm() + 1e-30)).item()
    return error if error == error else float("inf")


class backend:
    """OPNAS_KERNELS for a while."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        self.before = os.environ.get("OPNAS_KERNELS")
        os.environ["OPNAS_KERNELS"] = self.name

    def __exit__(self, *_):
        if self.before is None:
            del os.environ["OPNAS_KERNELS"]
        else:
            os.environ["OPNAS_KERNELS"] = self.before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=list(CASES), action="append")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # PyTorch then fills new memory with NaN
    torch.use_deterministic_algorithms(True)
    found: dict = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    failures = 0
    for op in args.op or list(CASES):
        rows, failed = [], []
        for seed in range(args.seed, args.seed + args.cases):
            try:
                rows.append(run_case(op, seed))
            except Exception as wrong:
                failed.append(str(wrong) if isinstance(wrong, AssertionError) else traceback.format_exc())
                print(failed[-1], file=sys.stderr)
        worst: dict = {}
        for row in rows:
            worst[row["dtype"]] = max(worst.get(row["dtype"], 0.0), row["error"])
        found[op] = {
            "cases": args.cases,
            "first_seed": args.seed,
            "failed": failed,
            "worst_relative_error": worst,
            "lanes_checked": sum(row["lanes"] for row in rows),
            "launches": dict(Counter(name for row in rows for name in row["kernels"])),
            "seconds": round(sum(row["seconds"] for row in rows), 1),
        }
        failures += len(failed)
        print(f"{op}: {len(rows)} of {args.cases} passed, {found[op]['seconds']} s", file=sys.stderr)
    text = json.dumps(found, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    else:
        print(text)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
