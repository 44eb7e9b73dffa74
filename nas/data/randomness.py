"""Random generators seeded by what they are for."""

from __future__ import annotations

import torch

from nas.base.seeds import keyed_seed


def generator(device: torch.device | str, *key: int | str) -> torch.Generator:
    """A generator of its own for one purpose, so that no draw depends on what was drawn elsewhere."""
    return torch.Generator(device).manual_seed(keyed_seed(*key))
