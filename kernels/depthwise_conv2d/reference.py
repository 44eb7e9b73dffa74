"""Depthwise convolution as a sum over taps of the padded map: no convolution in it, differentiable any number of times.

Half precision is summed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .aten import gated


def depthwise_conv2d(x, weight, bias, gate, stride, padding, scale) -> torch.Tensor:
    """As the public function of this folder, with `weight` and `bias` of any dtype."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    kernel = weight[:, 0].to(wide)
    source = F.pad(x.to(wide), (padding[1], padding[1], padding[0], padding[0]))
    (kernel_h, kernel_w), (height, width) = kernel.shape[1:], source.shape[2:]
    y = 0
    for i in range(kernel_h):
        for j in range(kernel_w):
            seen = source[:, :, i : height - kernel_h + i + 1, j : width - kernel_w + j + 1]
            y = y + seen[:, :, :: stride[0], :: stride[1]] * kernel[:, i, j, None, None]
    if bias is not None:
        y = y + bias.to(wide)[:, None, None]
    return gated(scale * y, None if gate is None else gate.to(wide)).to(x.dtype)


forward = depthwise_conv2d


def grad_input(grad, weight, size, stride, padding, scale) -> torch.Tensor:
    """grad [N,C,H',W'], weight [C,1,Kh,Kw] -> gradient of x [N,C,*size]."""
    x = grad.new_zeros((*grad.shape[:2], *size)).requires_grad_()
    with torch.enable_grad():
        y = depthwise_conv2d(x, weight.detach(), None, None, stride, padding, scale)
    return torch.autograd.grad(y, x, grad)[0]


def grad_weight(grad, x, kernel_size, stride, padding, scale) -> torch.Tensor:
    """grad [N,C,H',W'], x [N,C,H,W] -> gradient of the weight [C,1,*kernel_size]."""
    weight = grad.new_zeros((x.shape[1], 1, *kernel_size), dtype=torch.promote_types(grad.dtype, torch.float32))
    weight.requires_grad_()
    with torch.enable_grad():
        y = depthwise_conv2d(x.detach(), weight, None, None, stride, padding, scale)
    return torch.autograd.grad(y, weight, grad)[0]
