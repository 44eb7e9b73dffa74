"""Seeds derived by hashing what they are for; needs no torch."""

from __future__ import annotations

import hashlib


def keyed_seed(*key: int | str) -> int:
    """A seed of 63 bits for one purpose, such as `keyed_seed(seed, "order", epoch)`; equal keys give equal seeds."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
