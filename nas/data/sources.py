"""Opening the data of a training: in memory or streamed."""

from __future__ import annotations

from pathlib import Path

import torch

from nas.config.sections import ProxyConfig, RetrainConfig
from nas.data.batches import MemorySource, OpenedSource, Shard
from nas.data.datasets import ImageDataset, load_dataset
from nas.data.images.reading import DataError
from nas.data.scenes import SceneDataset, SceneSource, load_scenes
from nas.data.streaming import StreamingSource

ProxyDataset = ImageDataset | SceneDataset


def open_source(
    config: ProxyConfig | RetrainConfig,
    *,
    seed: int,
    device: torch.device | str,
    cache_dir: Path,
    data_dir: Path | None = None,
    num_workers: int = 0,
    shard: Shard | None = None,
) -> OpenedSource:
    """The source of a training: image folders are streamed for a retraining, everything else is held in memory."""
    if isinstance(config, RetrainConfig) and config.dataset == "imagefolder":
        if data_dir is None:
            raise DataError("data_dir: not given; expected a folder with one folder of images per class")
        return StreamingSource(
            data_dir, config, seed=seed, device=device, num_workers=num_workers, shard=shard, cache_dir=cache_dir
        )
    dataset = load_dataset(config, seed, cache_dir, data_dir)
    return MemorySource(dataset, config, seed=seed, device=device, shard=shard)


def load_proxy(config: ProxyConfig, seed: int, cache_dir: Path) -> ProxyDataset:
    """The data set of a proxy: images of classes, or scenes with boxes where its task is detection. Raises DataError, a
    ValueError that names the place."""
    return load_dataset(config, seed, cache_dir) if config.task == "classification" else load_scenes(config, seed)


def proxy_source(
    dataset: ProxyDataset, config: ProxyConfig, *, seed: int, device: torch.device | str
) -> MemorySource | SceneSource:
    """The batches of a proxy's data set."""
    if isinstance(dataset, SceneDataset):
        return SceneSource(dataset, config, seed=seed, device=device)
    return MemorySource(dataset, config, seed=seed, device=device)
