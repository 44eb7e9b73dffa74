"""A convolution with kernels of each sample as the choice of a provider sees it."""

from __future__ import annotations

from .._core.operation import Problem
from .shapes import OP


def convolution_problem(pass_name, x, channels, filters, size, kernel, stride, groups, why, form="mixed") -> Problem:
    """One pass on the device and in the dtype of x [N,...]; `size` of the result, `why` Triton cannot take it."""
    sizes = ((size[0], size[1]), (int(kernel[0]), int(kernel[1])), tuple(stride))
    return Problem(OP, pass_name, x.device, x.dtype, x.shape[0], channels, *sizes, why, groups, form, filters)
