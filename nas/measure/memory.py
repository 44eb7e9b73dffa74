"""Peak memory of the inference of a network."""

from __future__ import annotations

import copy
import weakref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.networks.precision import autocast, named_dtype, to_device, to_memory_format


def peak_memory_bytes(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    device: torch.device | str,
    batch_size: int = 1,
    dtype: str = "float32",
) -> int:
    """Largest number of bytes in use during the inference of a copy of `model`, its weights and its input included.

    On a GPU this is what torch's allocator had handed out. On a CPU it is the sum of all tensors alive after any
    operation; what an operation allocates and frees inside itself is not seen there.
    """
    device = torch.device(device)
    return (_peak_cuda if device.type == "cuda" else _peak_cpu)(
        model, (batch_size, *input_shape), device, named_dtype(dtype)
    )


def _peak_cuda(model: nn.Module, shape: tuple[int, ...], device: torch.device, precision: torch.dtype | None) -> int:
    before = torch.cuda.memory_allocated(device)
    copied, images = _ready(model, shape, device)
    with torch.inference_mode(), autocast(device, precision):
        copied(images)  # workspaces that stay allocated between runs come with the first
        torch.cuda.reset_peak_memory_stats(device)
        copied(images)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_cpu(model: nn.Module, shape: tuple[int, ...], device: torch.device, precision: torch.dtype | None) -> int:
    copied, images = _ready(model, shape, device)
    held = LiveStorages()
    for tensor in (*copied.parameters(), *copied.buffers(), images):
        held.add(tensor)
    with torch.inference_mode(), autocast(device, precision), held:
        copied(images)
    return held.peak


def _ready(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> tuple[nn.Module, Tensor]:
    return to_device(copy.deepcopy(model), device).eval(), to_memory_format(torch.randn(shape, device=device))


class LiveStorages(TorchDispatchMode):
    """Follows the bytes of the storages behind all tensors that operations return, until they are freed."""

    def __init__(self):
        super().__init__()
        self.peak = self.live = 0
        self._followed: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._followed:
            return
        self._followed.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._followed.discard(address)
        self.live -= size
