"""Where and how a network is computed: device, number format, memory layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.base.errors import MachineError

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def usable_device(name: str | None) -> torch.device:
    """The device of that name; absent: a GPU where there is one, else the CPU. Raises MachineError."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise MachineError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if device.type != "cpu" and not torch.cuda.is_available():
        raise MachineError(f"--device {name}: this machine has no usable GPU; cpu is there")
    return device


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast to `dtype`; None computes in float32."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def named_dtype(name: str) -> torch.dtype | None:
    """The autocast dtype that DTYPES lists under a name, None for float32."""
    if name not in DTYPES:
        raise ValueError(f"dtype = {name!r}: allowed are {', '.join(DTYPES)}")
    return DTYPES[name]


def training_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of a training, None for float32; `auto` is bfloat16 only where the hardware computes in it.

    A CPU without AMX or AVX512-BF16 emulates bfloat16, up to 80 times slower than float32.
    """
    if amp == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else None
    return {"off": None, **DTYPES}[amp]


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has instructions for bfloat16 products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of images and weights in which convolutional networks run fastest on a device."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Bring a model to a device, in place, with the weights of its convolutions in the layout that runs fastest there.

    Not `Module.to(memory_format=...)`: it would lay out ODConv's kernels anew, which are mixed as rows of a matrix.
    """
    model.to(device)
    for parameter in model.parameters():
        parameter.data = to_memory_format(parameter.data)
    return model


def to_memory_format(tensor: Tensor) -> Tensor:
    """A tensor with four dimensions in the layout that runs fastest on its device; any other as it is."""
    if tensor.ndim != 4:
        return tensor
    layout = memory_format(tensor.device)
    tensor = tensor.contiguous(memory_format=layout)
    if layout == torch.channels_last and tensor.shape[1] == 1:
        # both layouts are the same memory, and a convolution goes by the strides: it would leave channels_last
        height, width = tensor.shape[2:]
        return tensor.as_strided(tensor.shape, (height * width, 1, width, 1))
    return tensor
