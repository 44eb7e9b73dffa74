"""Launches kept ready: what a kernel is told follows from sizes, strides and options, and is worked out once for each.

A launch is described on stand-ins of its tensors, without memory. The same arguments next time only put addresses into
what was kept, and start what Triton compiled, without its search for it by all 50 arguments of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .launch import Launch, float32_precision, interpreted

ALIGNED = 16  # bytes; Triton compiles other code for addresses that are no multiple
MOST = 4096  # descriptions kept; past them all are made again
Made = dict[str, torch.Tensor]
Describe = Callable[..., "Launch | Iterable[Launch]"]
Key = tuple[Any, ...]


def start(describe: Describe, *arguments: Any) -> list[Made]:
    """Run the launch, or launches, that `describe(*arguments)` returns; for each, the tensors that it made itself.

    Arguments are tensors, None and plain options, among these lists and mappings. `describe` may look at nothing else,
    as what it returned is used again for tensors of the same sizes, strides and dtypes. The tensors that a launch
    fills are among the arguments, or named in its `made`.
    """
    key = _key(describe, arguments)
    ready = _ready.get(key)
    if ready is None:
        ready = _prepared(describe, arguments)
        if len(_ready) >= MOST:
            _ready.clear()
        _ready[key] = ready
    if _collections:
        _collections[-1] += (one.launch for one in ready)
        return [one.made(arguments) for one in ready]
    return [one(arguments) for one in ready]


@contextmanager
def collected() -> Iterator[list[Launch]]:
    """The launches of all calls within, of which none is run: what they would fill keeps what it has."""
    _collections.append([])
    try:
        yield _collections[-1]
    finally:
        _collections.pop()


@dataclass
class _Prepared:
    """A launch on stand-ins, and where its tensors come from.

    sources: argument of the kernel -> number of the argument of `describe`, elements behind the start of that tensor.
    any_tensor: number of one of the tensors among the arguments of `describe`.
    started: what starts the compiled kernel, and its arguments by position, once there is one.
    """

    launch: Launch
    sources: dict[str, tuple[int, int]]
    any_tensor: int
    started: tuple[Callable[..., None], list[Any], list[tuple[int, int, int]], list[tuple[int, str]]] | None = None

    def __call__(self, arguments: Sequence[Any]) -> Made:
        device, made = arguments[self.any_tensor].device, self.made(arguments)
        if self.started is None:
            self._by_triton(arguments, made)
            return made
        run, values, addresses, of_made = self.started
        given = values.copy()
        for position, number, offset in addresses:
            given[position] = arguments[number].data_ptr() + offset
        for position, name in of_made:
            given[position] = made[name].data_ptr()
        if device.index is None or device.index == torch.cuda.current_device():
            run(*given)
        else:  # Triton launches on the current device, whatever that of its tensors
            with torch.cuda.device(device):
                run(*given)
        return made

    def made(self, arguments: Sequence[Any]) -> Made:
        """The tensors that the launch fills besides those it is given, as they come."""
        device = arguments[self.any_tensor].device
        return {name: _made(self.launch.arguments[name], device) for name in self.launch.made}

    def _by_triton(self, arguments: Sequence[Any], made: Made) -> None:
        """The way through Triton, which compiles."""
        tensors = {name: self._view(name, arguments[number]) for name, (number, _) in self.sources.items()}
        launch = self.launch.with_arguments(tensors | made)
        compiled = launch()
        if interpreted() or compiled is None:
            return
        names: list[str] = launch.kernel.arg_names
        plain = {name: value for name, value in launch.arguments.items() if not isinstance(value, torch.Tensor)}
        values = [launch.constants.get(name, plain.get(name)) for name in names]
        addresses = []
        for name, (number, offset) in self.sources.items():
            width = arguments[number].element_size()
            addresses.append((names.index(name), number, offset * width))
        grid = (*launch.grid, 1, 1)[:3]
        self.started = (compiled[grid], values, addresses, [(names.index(name), name) for name in made])

    def _view(self, name: str, t: torch.Tensor) -> torch.Tensor:
        like = self.launch.arguments[name]
        assert isinstance(like, torch.Tensor)
        return t.as_strided(like.shape, like.stride(), t.storage_offset() + self.sources[name][1])


def _key(describe: Describe, arguments: Sequence[Any]) -> Key:
    key: list[Any] = [describe, float32_precision()]
    for value in arguments:
        if isinstance(value, torch.Tensor):
            key += (value.shape, value.stride(), value.dtype, value.device, value.data_ptr() % ALIGNED)
        elif isinstance(value, list):
            key.append(tuple(value))
        elif isinstance(value, dict):
            key.append(tuple(value.items()))
        else:
            key.append(value)
    return tuple(key)


def _prepared(describe: Describe, arguments: Sequence[Any]) -> list[_Prepared]:
    stand_ins = [_stand_in(value) if isinstance(value, torch.Tensor) else value for value in arguments]
    storages = {_storage(t): number for number, t in enumerate(stand_ins) if isinstance(t, torch.Tensor)}
    launches = describe(*stand_ins)
    found = []
    for launch in (launches,) if isinstance(launches, Launch) else launches:
        sources = {}
        for name, t in launch.arguments.items():
            if isinstance(t, torch.Tensor) and name not in launch.made:
                assert _storage(t) in storages, f"{name} is neither an argument of {describe} nor made by its launch"
                sources[name] = (storages[_storage(t)], int(t.storage_offset()))
        found.append(_Prepared(launch, sources, min(storages.values())))
    return found


def _stand_in(t: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


def _storage(t: torch.Tensor) -> int:
    return t.untyped_storage()._cdata


def _made(like: Any, device: torch.device) -> torch.Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=device)


_collections: list[list[Launch]] = []
_ready: dict[Key, list[_Prepared]] = {}
