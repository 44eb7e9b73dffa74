"""Parts: which numbers of a tensor a smaller network shares with a larger one, dimension by dimension."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Index = slice | Tensor


@dataclass(frozen=True)
class Part:
    """Consecutive positions along a dimension: a product of sizes, the last of which runs fastest.

    Along a size that is `centred`, such as the rows of a window, a smaller network has the positions in the middle of a
    larger one's; along others, such as channels, the first ones.
    """

    sizes: tuple[int, ...]
    centred: tuple[bool, ...]
    name: str = ""
    """Parts of equal names stand for each other, whatever lies before them."""

    @property
    def count(self) -> int:
        return math.prod(self.sizes)


Dimension = tuple[Part, ...]
Layout = tuple[Dimension, ...]
"""Of a tensor, one for each dimension."""


def first(size: int, name: str = "") -> Part:
    """Positions such as channels."""
    return Part((size,), (False,), name)


def middle(*sizes: int) -> Part:
    """Positions of a window."""
    return Part(sizes, (True,) * len(sizes))


def length(dimension: Dimension) -> int:
    return sum(part.count for part in dimension)


def shape(layout: Layout) -> tuple[int, ...]:
    return tuple(map(length, layout))


def union(one: Layout, other: Layout) -> Layout:
    """The smallest layout with room for both. Raises ValueError where they have nothing to do with each other."""
    if len(one) != len(other):
        raise ValueError(f"{len(one)} dimensions and {len(other)}")
    return tuple(_united(*pair) for pair in zip(one, other, strict=True))


def _united(one: Dimension, other: Dimension) -> Dimension:
    found = {part.name: part for part in one}
    for part in other:
        known = found.get(part.name, part)
        if known.centred != part.centred:
            raise ValueError("a window and channels")
        sizes = tuple(map(max, known.sizes, part.sizes))
        found[part.name] = Part(sizes, part.centred, part.name)
    return tuple(found.values())


def indices(full: Layout, mine: Layout) -> tuple[Index, ...]:
    """Per dimension, where in a tensor of layout `full` the numbers of one of layout `mine` lie.

    Raises ValueError where `full` has no room for it.
    """
    return tuple(_index(*pair) for pair in zip(full, mine, strict=True))


def _index(full: Dimension, mine: Dimension) -> Index:
    begins: dict[str, tuple[int, Part]] = {}
    begin = 0
    for part in full:
        begins[part.name] = (begin, part)
        begin += part.count
    positions = torch.cat([_positions(*begins[part.name], mine=part) for part in mine])
    start, count = int(positions[0]), len(positions)
    return slice(start, start + count) if bool((positions.diff() == 1).all()) else positions


def _positions(begin: int, full: Part, mine: Part) -> Tensor:
    if any(have < want for have, want in zip(full.sizes, mine.sizes, strict=True)):
        raise ValueError(f"sizes {mine.sizes} do not fit into {full.sizes}")
    found = torch.zeros(1, dtype=torch.int64, device="cpu")
    for have, want, centred in zip(full.sizes, mine.sizes, mine.centred, strict=True):
        start = (have - want) // 2 if centred else 0
        found = (found[:, None] * have + torch.arange(start, start + want, device="cpu")).flatten()
    return begin + found


def taken(tensor: Tensor, where: Sequence[Index]) -> Tensor:
    """The numbers at `where`, differentiable; a view where they lie in one piece per dimension."""
    found = tensor[tuple(each if isinstance(each, slice) else slice(None) for each in where)]
    for dimension, each in enumerate(where):
        if not isinstance(each, slice):
            found = found.index_select(dimension, each.to(found.device))
    return found


def put(tensor: Tensor, where: Iterable[Index], values: Tensor) -> None:
    """Write `values` to where `taken` reads them; on the meta device there is nothing to write."""
    if tensor.is_meta:
        return
    every = [
        torch.arange(tensor.shape[dimension], device="cpu")[each] if isinstance(each, slice) else each
        for dimension, each in enumerate(where)
    ]
    grid = [each.view([-1 if at == own else 1 for at in range(len(every))]) for own, each in enumerate(every)]
    tensor[tuple(grid)] = values.to(tensor)
