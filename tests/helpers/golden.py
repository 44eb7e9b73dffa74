"""Recorded numbers of the published modules and networks: reading, comparing, and the weights of whole networks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "data" / "golden"
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in json.loads((FOLDER / "INDEX.json").read_text())}
# name -> num_params, conv_and_linear_macs, resolution, published figures, state_dict as [key, shape] in its order
MANIFESTS: dict[str, dict[str, Any]] = json.loads(gzip.decompress((FOLDER.parent / "published.json.gz").read_bytes()))


def load(name: str) -> dict[str, Any]:
    """The arrays of a case; numbers as tensors, names as lists."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return {key: torch.from_numpy(a) if a.dtype.kind in "fi" else a.tolist() for key, a in arrays.items()}


def near(actual: Tensor, expected: Tensor, name: str, relative: float = 1e-9, absolute: float = 1e-13) -> None:
    """Within `relative` of the largest entry."""
    assert actual.shape == expected.shape, name
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= relative * expected.abs().max().item() + absolute, f"{name}: {error}"


def in_published_names(keys: Mapping[str, tuple[str, ...]], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our keys -> under the published ones, halved where two published entries make up ours."""
    result: dict[str, Tensor] = {}
    for key, tensor in own.items():
        parts = keys[key]
        pieces = tensor.chunk(2) if len(parts) == 2 and tensor.dim() else [tensor] * len(parts)
        result |= dict(zip(parts, pieces, strict=True))
    return result


def uniform(row: int, count: int) -> np.ndarray:
    """Pseudo-random numbers in [0, 1), the same everywhere: element j of row i by integer hashing modulo 2^32."""
    v = np.arange(1, count + 1, dtype=np.uint64) * 2654435761 + (row + 1) * 2246822519 & 0xFFFFFFFF
    v = (v ^ v >> 15) * 2246822519 & 0xFFFFFFFF
    v = (v ^ v >> 13) * 3266489917 & 0xFFFFFFFF
    return (v ^ v >> 16).astype(np.float64) / 2**32


def filled_state_dict(name: str) -> dict[str, Tensor]:
    """The weights that the recorded logits of a whole network belong to, in float64."""
    return {key: _filled(key, shape, i) for i, (key, shape) in enumerate(MANIFESTS[name]["state_dict"])}


def _filled(key: str, shape: list[int], row: int) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = torch.from_numpy(uniform(row, int(np.prod(shape)))).reshape(shape)
    if key.endswith("running_var"):
        return 0.75 + 0.5 * u
    if key.endswith("running_mean"):
        return 0.2 * (u - 0.5)
    if key.split(".")[-1] in ("gamma1", "gamma2"):
        return 0.1 + 0.2 * u
    if key.endswith("complex_weight"):
        return 2 * (u - 0.5)
    if len(shape) == 1:
        return 0.8 + 0.4 * u if key.endswith("weight") else 0.2 * (u - 0.5)
    if len(shape) == 5:
        mobile = key.startswith("features.")
        gain = 6 if shape[-1] > 1 else 5 if mobile else 3
        many = 1 if shape[0] == 1 else 1.8 if mobile else 1.5
        return gain * many * (12 / np.prod(shape[2:])) ** 0.5 * (u - 0.5)
    gain = 0.3 if key.endswith("conv2.conv.weight") else 0.5 if ".attention." in key else 1
    return gain * (12 / np.prod(shape[1:])) ** 0.5 * (u - 0.5)


def noise(row: int, *shape: int) -> Tensor:
    """Uniform numbers of mean 0 and variance 1."""
    return torch.from_numpy(2 * 3**0.5 * (uniform(row, int(np.prod(shape))) - 0.5)).reshape(shape)


def parameter_grads(model: nn.Module) -> dict[str, Tensor]:
    grads = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert all(grad is not None for grad in grads.values())
    return grads  # type: ignore[return-value]
