"""Where a window reads: one axis of a convolution, or of its gradient with respect to the input.

An output at o reads the sources at o * stride + base + t * dilation, t in [0, taps); tap t of it meets entry
first_tap + t * tap_step of the filter. The gradient of a convolution with stride s is s such windows of stride 1, one
for each phase: input pixels phase, phase + s, phase + 2 s, ... meet the same entries of the filter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """The windows of the outputs start, start + jump, start + 2 jump, ... of one axis."""

    taps: int
    base: int
    stride: int
    dilation: int
    first_tap: int = 0
    tap_step: int = 1
    start: int = 0
    jump: int = 1


def forward_axis(kernel: int, stride: int, padding: int, dilation: int = 1) -> Axis:
    """Windows of the outputs of a convolution."""
    return Axis(kernel, -padding, stride, dilation)


def gradient_axes(kernel: int, stride: int, padding: int, dilation: int = 1) -> list[Axis]:
    """Windows of the inputs on the upstream gradient, a set per phase; a phase that no tap meets has taps = 0."""
    axes = []
    for phase in range(stride):
        met = [i for i in range(kernel) if (phase + padding - i * dilation) % stride == 0]
        if not met:
            axes.append(Axis(0, 0, 1, 1, start=phase, jump=stride))
            continue
        # sources grow as entries of the filter fall
        apart = met[1] - met[0] if len(met) > 1 else stride
        base = (phase + padding - met[-1] * dilation) // stride
        axes.append(Axis(len(met), base, 1, apart * dilation // stride, met[-1], -apart, phase, stride))
    return axes


def out_size(x_shape, weight_shape, stride, padding, dilation) -> tuple[int, int]:
    """Rows and columns of the convolution of a map [N,C,H,W] with a weight [...,Kh,Kw]."""
    rows, columns = (
        (x_shape[2 + a] + 2 * padding[a] - dilation[a] * (weight_shape[a - 2] - 1) - 1) // stride[a] + 1 for a in (0, 1)
    )
    return rows, columns
