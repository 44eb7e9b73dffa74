"""Involution as the CUDA kernels in public have it: one thread per output value, NCHW; only where CuPy is installed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

TYPES = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
THREADS = 256
SOURCE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void involution(const T* x, const T* weight, T* out, long long count, int channels, int height,
    int width, int groups, int kh, int kw, int out_h, int out_w, int sh, int sw, int ph, int pw, int dh, int dw) {
  long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= count) return;
  int w = at % out_w, h = at / out_w % out_h, c = at / out_w / out_h % channels;
  long long n = at / out_w / out_h / channels;
  const T* kernels = weight + (n * groups + c / (channels / groups)) * kh * kw * out_h * out_w + h * out_w + w;
  const T* map = x + (n * channels + c) * height * width;
  float sum = 0.0f;
  for (int i = 0; i < kh; ++i)
    for (int j = 0; j < kw; ++j) {
      int row = h * sh + i * dh - ph, col = w * sw + j * dw - pw;
      if (row >= 0 && row < height && col >= 0 && col < width)
        sum += (float)map[row * width + col] * (float)kernels[(i * kw + j) * out_h * out_w];
    }
  out[at] = (T)sum;
}
"""


def cupy_installed() -> bool:
    return find_spec("cupy") is not None


def involution_one_thread(x, weight, stride, padding, dilation) -> torch.Tensor:
    """x [N,C,H,W], weight [N,G,Kh,Kw,H',W'] on a GPU -> [N,C,H',W'], all contiguous (copied where they are not)."""
    import cupy  # pyright: ignore[reportMissingImports]

    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty(*x.shape[:2], *weight.shape[4:], dtype=x.dtype, device=x.device)
    sizes = (*x.shape[1:], *weight.shape[1:4], *out.shape[2:], *stride, *padding, *dilation)
    arguments = (x.data_ptr(), weight.data_ptr(), out.data_ptr(), out.numel(), *map(cupy.int32, sizes))
    with cupy.cuda.ExternalStream(torch.cuda.current_stream(x.device).cuda_stream):
        _kernel(x.dtype)((-(-out.numel() // THREADS),), (THREADS,), arguments)
    return out


@cache
def _kernel(dtype: torch.dtype):
    import cupy  # pyright: ignore[reportMissingImports]

    return cupy.RawKernel(SOURCE, "involution", options=(f"-DT={TYPES[dtype]}", "--std=c++17"))
