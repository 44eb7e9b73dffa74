"""Opening the data of a training: in memory or streamed."""

from __future__ import annotations

from pathlib import Path

import torch

from nas.config.sections import ProxyConfig, RetrainConfig
from nas.data.batches import MemorySource, OpenedSource, Shard
from nas.data.datasets import load_dataset
from nas.data.images.reading import DataError
from nas.data.streaming import StreamingSource


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
