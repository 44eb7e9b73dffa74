"""The kernels of all samples, with a factor per kernel, row and column: products of matrices."""

from __future__ import annotations

import torch


def mix(weight, kernel, rows, columns) -> torch.Tensor:
    """weight [n,R,C], kernel [N,n], rows [N,R], columns [N,C] -> [N,R,C] in the weight's dtype; differentiable."""
    mixed = torch.mm(kernel.to(weight.dtype), weight.flatten(1)).view(-1, *weight.shape[1:])
    return mixed * rows.to(weight.dtype).unsqueeze(2) * columns.to(weight.dtype).unsqueeze(1)


def mix_grads(grad, weight, kernel, rows, columns) -> tuple[torch.Tensor, ...]:
    """The gradients of weight, kernel, rows and columns for that of the result, each in its dtype."""
    tensors = [t.detach().requires_grad_() for t in (weight, kernel, rows, columns)]
    with torch.enable_grad():
        found = torch.autograd.grad(mix(*tensors), tensors, grad)
    return tuple(g.contiguous() for g in found)
