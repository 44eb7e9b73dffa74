"""ProcessGroup: the processes that train one network together, described by their launcher; or one process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class ProcessGroup:
    """This process's number among `world`, and its number on its host, which is that of its GPU."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process, the one with rank 0, writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()


def group_from_environment(environment: Mapping[str, str]) -> ProcessGroup:
    """The group that a launcher (ours, torchrun, Ray Train) or SLURM's srun describes in the environment."""
    slurm = _by_slurm(environment)
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID") if slurm else ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, world, local_rank = (int(environment.get(name, default)) for name, default in zip(names, "010", strict=True))
    return ProcessGroup(rank, world, local_rank)


def num_local(environment: Mapping[str, str]) -> int | None:
    """How many of the group's processes are on this host, where the launcher says so."""
    if _by_slurm(environment):
        return int(environment.get("SLURM_TASKS_PER_NODE", "").split(",")[0].split("(")[0] or 0) or None  # as in 4(x2)
    return int(environment.get("LOCAL_WORLD_SIZE", 0)) or None


def _by_slurm(environment: Mapping[str, str]) -> bool:
    return "RANK" not in environment and int(environment.get("SLURM_NTASKS", "1")) > 1 and "MASTER_ADDR" in environment


@contextmanager
def connected(group: ProcessGroup, device: torch.device) -> Iterator[None]:
    """Initialise torch.distributed at MASTER_ADDR:MASTER_PORT; a minute without an answer ends the training."""
    if group.world == 1 or distributed.is_initialized():  # Ray Train connects its workers itself
        yield
        return
    os.environ.setdefault("MASTER_PORT", "29400")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=group.rank,
        world_size=group.world,
        timeout=timedelta(seconds=SILENCE_SECONDS),
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
