"""TrialContext: where trials run. Candidate: the network of one of them, with all that an evaluator needs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.base.locks import DeviceLock, devices_folder
from nas.config.evaluators import EvaluatorConfig
from nas.config.sections import ExperimentConfig, ProxyConfig
from nas.data.batches import MemorySource
from nas.data.scenes import SceneSource
from nas.data.sources import ProxyDataset, load_proxy, proxy_source
from nas.networks.task import build_network
from nas.runs.folder import shared_cache
from nas.search.cluster.store import Store
from nas.search.stopping.choosing import rungs_of
from nas.space.genotype import Genotype
from nas.training.process_state import reset_process

Judging = Generator[dict[str, float], None, float]
"""A row per epoch, and in the end what the evaluator says of the network: more is better, NaN where it cannot say."""


@dataclass
class TrialContext:
    """Where trials run: a process that lives for many of them, with the data set that they share."""

    config: ExperimentConfig
    run_dir: Path
    device: torch.device
    num_threads: int = 1
    store: Store | None = None
    """Where trials keep what they save, if other hosts do not see `run_dir`."""
    save_now: Callable[[], bool] | None = None
    """Asked after each training step, whether the trial must save itself at once."""
    kept: dict[str, Any] = field(default_factory=dict)
    """By its name, what an evaluator keeps for later candidates."""
    _datasets: list[ProxyDataset] = field(default_factory=list)

    def dataset(self) -> Any:
        """An ImageDataset, or for detection a SceneDataset."""
        if not self._datasets:
            self._datasets.append(load_proxy(self.config.proxy, self.config.search.seed, shared_cache(self.run_dir)))
        return self._datasets[0]

    @property
    def rungs(self) -> list[int]:
        """The epochs at which a scheduler compares trials."""
        return rungs_of(self.config.search, self.config.proxy.epochs)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Around training steps: they use the device, and in any case the CPU, which measurements may have alone."""
        with device_lock(self.device).shared():
            if self.device.type == "cpu":
                yield
            else:
                with device_lock(torch.device("cpu")).shared():
                    yield


def device_lock(device: torch.device) -> DeviceLock:
    """The lock that lets a measurement have a device of this host alone, whoever else trains there."""
    name = "cpu" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)
    return DeviceLock(devices_folder() / name)


@dataclass(frozen=True)
class Candidate:
    """The network of a trial, before an evaluator. What that says must follow from this and from files in `folder`."""

    genotype: Genotype
    key: str
    seed: int
    stage: EvaluatorConfig
    """The evaluator's own settings."""
    proxy: ProxyConfig
    """The short training, with what the search chose of it for this trial."""
    context: TrialContext
    folder: Path
    """What lies here when a process is killed, the next one finds here; it goes when the trial ends."""
    name: str = "0"
    """What the trial is called in the store."""
    is_replicate: bool = False
    donor: Mapping[str, Any] | None = None
    """The trained network that the training is to inherit from: `number`, `key` and `genotype`, as JSON."""
    beside: dict[str, Any] = field(default_factory=dict)
    """What the evaluation in the record says beside the figure."""

    @property
    def device(self) -> torch.device:
        return self.context.device

    def model(self) -> nn.Module:
        """The network as it starts, anew and the same at every call, on the CPU."""
        dataset = self.context.dataset()
        reset_process(self.seed, num_threads=self.context.num_threads)
        proxy, sizes = self.proxy, (dataset.num_classes, dataset.in_channels)
        return build_network(self.genotype, *sizes, proxy.resolution, proxy.drop_path)

    def source(self) -> MemorySource | SceneSource:
        """The images of the training, on the device. Trials meet them in one order, as far as they can; how accuracy
        scatters, which replicates tell, must have that in it too."""
        seed = self.seed if self.is_replicate else self.context.config.search.seed
        return proxy_source(self.context.dataset(), self.proxy, seed=seed, device=self.device)

    def batch(self) -> tuple[Tensor, Any]:
        """Images [N, C, H, W] and class numbers [N], or a dict of boxes and labels for each image, of the first
        training step, on the device: one batch for all trials of a run."""
        config = self.context.config
        proxy, seed = config.proxy.chosen({}), config.search.seed
        source = proxy_source(self.context.dataset(), proxy, seed=seed, device=self.device)
        return next(iter(source.train_batches(0)))
