"""What several operators share: norms that survive tiny inputs, 1x1 projections, the group rule, initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

LARGE = 1 << 16  # more weights than this are drawn by threads,
PIECE = 1 << 19  # this many at a time
HORNET_STD = 0.02


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that takes its running statistics where a training batch has one value per channel.

    The variance of one value says nothing, and nn.BatchNorm2d raises there: batch 1 on a pooled 1x1 map.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps)
        return super().forward(input)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N,C,H,W], each pixel on its own."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def project(in_channels: int, out_channels: int) -> nn.Module:
    """1x1 convolution without bias, or nothing where the width does not change."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


def reset_norms(module: nn.Module) -> None:
    """Factors 1, shifts 0, fresh statistics."""
    for child in module.modules():
        if isinstance(child, _NormBase | nn.LayerNorm | nn.GroupNorm):
            child.reset_parameters()


def reset_projections(module: nn.Module) -> None:
    """Kaiming normal by fan-out for the 1x1 convolutions `before` and `after` an operator, once it has them."""
    for name in ("before", "after"):
        if isinstance(part := getattr(module, name, None), nn.Module):
            kaiming_(part)


@cache
def normal_quantiles() -> torch.Tensor:
    """65,536 equally likely values of N(0, 1) in float64, one for each 16 random bits."""
    return torch.special.ndtri((torch.arange(1 << 16, dtype=torch.float64, device="cpu") + 0.5) / (1 << 16))


class Drawing:
    """Threads that draw large weights on the CPU while the next layers are built; see `drawing`.

    By the inverse of the distribution, as timm draws its truncated normal, with 16 random bits for a weight: two to
    four times as fast as torch's normal_, which for 195 million weights takes longer than all the rest of building.
    """

    def __init__(self, threads: ThreadPoolExecutor):
        self.threads = threads
        self.begun: list[tuple[int, int, list[Future]]] = []
        """First address, address behind the last, and what fills the memory between them."""

    def normal_(self, tensor: torch.Tensor, std: float) -> None:
        """Begin to fill a tensor; what was begun on its memory before is given up, or waited for where it runs."""
        quantiles = (normal_quantiles() * std).to(tensor.dtype).numpy()

        def draw(piece: np.ndarray, seed: int) -> None:
            bits = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, -(-piece.size // 4), np.uint64)
            np.take(quantiles, bits.view(np.uint16)[: piece.size], out=piece, mode="clip")

        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        for overlapping in [entry for entry in self.begun if entry[0] < last and first < entry[1]]:
            self.finish(future for future in overlapping[2] if not future.cancel())
            self.begun.remove(overlapping)
        pieces = [piece.numpy() for piece in tensor.detach().view(-1).split(PIECE)]
        seeds = torch.randint(2**63 - 1, (len(pieces),), device="cpu").tolist()
        futures = [self.threads.submit(draw, *work) for work in zip(pieces, seeds, strict=True)]
        self.begun.append((first, last, futures))

    @staticmethod
    def finish(futures: Iterable[Future]) -> None:
        for future in futures:
            future.result()


_drawing: ContextVar[Drawing | None] = ContextVar("drawing", default=None)


@contextmanager
def drawing() -> Iterator[Drawing]:
    """Within, `normal_` returns before a large tensor is filled, and nothing may read it; at the end all are."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        token = _drawing.set(current := Drawing(threads))
        try:
            yield current
        finally:
            _drawing.reset(token)
        current.finish(chain.from_iterable(futures for _, _, futures in current.begun))


@torch.no_grad()
def normal_(tensor: torch.Tensor, std: float) -> None:
    """Fill with N(0, std). Large tensors on the CPU are drawn piece by piece on all of torch's threads, each piece by a
    generator of its own, so that the numbers do not depend on how many threads there are."""
    if tensor.is_meta:
        return  # nothing to fill, for which torch takes milliseconds
    real = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device.type == "cpu"
    if not real or tensor.dtype == torch.bfloat16 or tensor.numel() <= LARGE:
        nn.init.normal_(tensor, std=std)
    elif current := _drawing.get():
        current.normal_(tensor, std)
    else:
        with drawing() as current:
            current.normal_(tensor, std)


def kaiming_normal_(weight: torch.Tensor) -> None:
    """N(0, 2 / fan-out) for weights [..., C_out, C_in / groups, rows, columns], as published ReLU networks start.

    The fan-out is C_out x rows x columns, as torch counts it, also where there are groups.
    """
    normal_(weight, math.sqrt(2 / (weight.shape[-4] * math.prod(weight.shape[-2:]))))


def unit_normal_(weight: torch.Tensor, gain: float = 1.0) -> None:
    """N(0, gain^2 / fan-in): inputs of mean square 1 give outputs of mean square gain^2, whatever size and groups.

    The fan-in is that of one output: the numbers of weight[0].
    """
    normal_(weight, gain / math.sqrt(math.prod(weight.shape[1:])))


def unit_(layer: Any, gain: float = 1.0) -> None:
    """A convolution or linear layer of this gain: weights by `unit_normal_`, bias 0."""
    unit_normal_(layer.weight, gain)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)


def undrawn(kind: type[nn.Conv2d] | type[nn.Linear], *sizes: int, **options: Any) -> Any:
    """A layer of `kind`, nn.Conv2d or nn.Linear, whose weights are still to be drawn."""
    build: Any = kind
    if type(torch.empty(0)) is not torch.Tensor:
        return build(*sizes, **options)  # FakeTensorMode, in which nothing can be skipped
    layer = build(*sizes, device="meta", **options)
    # as torch.nn.utils.skip_init, whose way to empty weights imports what knows symbolic shapes: 0.4 s of each process
    for name, weight in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype)))
    return layer


def hornet_(module: nn.Module) -> None:
    """Convolutions and linear layers in `module`: weights of N(0, 0.02), biases 0, as HorNet and ConvNeXt start.

    Theirs cut the distribution at 100 standard deviations, which is no cut.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            normal_(child.weight, HORNET_STD)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is not above `at_most`."""
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)


def kaiming_(module: nn.Module) -> None:
    """Convolutions in `module`: Kaiming normal by fan-out with ReLU gain, biases 0."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            kaiming_normal_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
