"""Team: the processes that train one network together, as torch.distributed knows them, or one process alone."""

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
class Team:
    """This process's number among `world`, and its number on its host, which is that of its GPU."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files and says what happens."""
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


def team_of(environment: Mapping[str, str]) -> Team:
    """The team that a launcher (ours, torchrun, Ray Train) or SLURM's srun describes in the environment."""
    slurm = _by_slurm(environment)
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID") if slurm else ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, world, local_rank = (int(environment.get(name, default)) for name, default in zip(names, "010", strict=True))
    return Team(rank, world, local_rank)


def num_local(environment: Mapping[str, str]) -> int | None:
    """How many of the team's processes are on this host, where the launcher says so."""
    if _by_slurm(environment):
        return int(environment.get("SLURM_TASKS_PER_NODE", "").split(",")[0].split("(")[0] or 0) or None  # as in 4(x2)
    return int(environment.get("LOCAL_WORLD_SIZE", 0)) or None


def _by_slurm(environment: Mapping[str, str]) -> bool:
    return "RANK" not in environment and int(environment.get("SLURM_NTASKS", "1")) > 1 and "MASTER_ADDR" in environment


@contextmanager
def joined(team: Team, device: torch.device) -> Iterator[None]:
    """Connect to the team's other processes at MASTER_ADDR:MASTER_PORT; a silence of a minute ends the training."""
    if team.world == 1 or distributed.is_initialized():  # Ray Train connects its workers itself
        yield
        return
    os.environ.setdefault("MASTER_PORT", "29400")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=team.rank,
        world_size=team.world,
        timeout=timedelta(seconds=SILENCE_SECONDS),
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
