"""Resets the process-wide state of a worker before it is used for another training."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import numpy as np
import torch

from nas.base.seeds import keyed_seed


def seed_global(device: torch.device, *key: int | str) -> None:
    """Seed the generator that dropout draws from on a device. On a CPU 1 ms cheaper than torch.manual_seed, which also
    notes a seed, with a stack trace, for every kind of device that is not in use."""
    if device.type == "cuda":
        torch.cuda.manual_seed(keyed_seed(*key))
    else:
        torch.default_generator.manual_seed(keyed_seed(*key))


def keep_compiled_kernels(cache: Path) -> None:
    """Let Triton keep what it compiles in `cache`, not in the home folder, unless TRITON_CACHE_DIR is set."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache.resolve() / "triton"))


def reset_process(seed: int, num_threads: int = 1) -> None:
    """Bring the process-wide state of Python, NumPy and torch to what a fresh process has, with `seed`.

    A worker process runs many trials; nothing that one of them left behind may change the next: seeds, gradient mode,
    autocast, default dtype and device, deterministic and benchmark flags, precision of float32 products, threads,
    cached GPU memory.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_grad_enabled(True)
    for device_type, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float16)):
        torch.set_autocast_enabled(device_type, False)
        torch.set_autocast_dtype(device_type, dtype)
    torch.set_autocast_cache_enabled(True)
    torch.clear_autocast_cache()
    torch.autograd.set_detect_anomaly(False)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    if torch.are_deterministic_algorithms_enabled():  # the call imports the compiler: 2 s of each process that trains
        torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True
    torch.set_num_threads(num_threads)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
