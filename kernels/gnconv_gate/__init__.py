"""One step of the recursive gated convolution.

Paper: HorNet, NeurIPS 2022, https://arxiv.org/abs/2207.14284
y_0 = p * a_0;  y_i = (1x1 convolution of y_{i-1}) * a_i.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import dispatch


def gnconv_gate(
    y: torch.Tensor, a: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """y [N,D,H,W], a [N,D',H,W], weight [D',D,1,1], bias [D'] -> (conv1x1(y) * a) [N,D',H,W].

    Without a weight y is taken as it is (D = D'): the first step. A polynomial of order n grows fast, so a float16
    caller keeps y and a in float32.
    """
    run = {"aten": _aten, "reference": _reference}[dispatch.choose("gnconv_gate")]
    return run(y, a, weight, bias)


def _aten(y, a, weight, bias):
    return y * a if weight is None else F.conv2d(y, weight, bias) * a


def _reference(y, a, weight, bias):
    if weight is None:
        return y * a
    mapped = torch.einsum("od,ndhw->nohw", weight[:, :, 0, 0], y)
    return (mapped if bias is None else mapped + bias.view(-1, 1, 1)) * a
