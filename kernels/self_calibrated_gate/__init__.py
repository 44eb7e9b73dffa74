"""Gate of the self-calibrated convolution.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions, CVPR 2020.
y = k3 * sigmoid(x + up(k2)), up = nearest neighbour to the size of x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import dispatch


def self_calibrated_gate(x: torch.Tensor, k3: torch.Tensor, k2: torch.Tensor) -> torch.Tensor:
    """x and k3 [N,C,H,W], k2 [N,C,h,w] with h <= H, w <= W -> [N,C,H,W]."""
    run = {"aten": _aten, "reference": _reference}[dispatch.choose("self_calibrated_gate")]
    return run(x, k3, k2)


def _aten(x, k3, k2):
    return k3 * torch.sigmoid(x + F.interpolate(k2, x.shape[2:], mode="nearest"))


def _reference(x, k3, k2):
    rows, columns = (_source(x.shape[a], k2.shape[a], x.device) for a in (2, 3))
    return k3 * torch.sigmoid(x + k2[:, :, rows[:, None], columns])


def _source(size: int, small: int, device: torch.device) -> torch.Tensor:
    # the index is taken in float32, like F.interpolate does
    step = torch.tensor(small / size, dtype=torch.float32, device=device)
    return (torch.arange(size, device=device) * step).long().clamp(max=small - 1)
