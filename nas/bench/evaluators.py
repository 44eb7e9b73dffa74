"""How well cheap judgements rank the trained networks of a table: zero-cost scores, counts, trainings cut short."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.bench.search.table import TableSpace, read_rows
from nas.config.sections import ProxyConfig
from nas.data.batches import MemorySource
from nas.data.datasets import load_dataset
from nas.measure.cost import num_macs, num_params
from nas.measure.zero_cost import SCORES, zero_cost_scores
from nas.networks.model import build_model
from nas.runs.retrainings import kendall
from nas.space.genotype import Genotype
from nas.training.process_state import reset_process

COUNTS = ("num_params", "num_macs")
TOGETHER = "mean_rank"
"""The mean over all scores, but for their combination, of a network's rank."""
RANKED = [name for name in SCORES if name != "combination"]


def bench(out: Path, table: Path, seed: int = 0, most: int | None = None) -> dict[str, Any]:
    """Score the networks of a table, or `most` drawn from them, untrained; compare with their accuracy after training.

    The scores lie in `out` (JSON), which a later call goes on with: {table, seed, scores: {network: {score: value,
    seconds: {score: CPU seconds}}}}. Returns it with `tau`: set of networks -> judgement -> Kendall's tau with its 95 %
    interval. Raises UserError for a file that is no table, or scores of something else.
    """
    space = TableSpace(table, "num_params")
    header, _ = read_rows(table)
    proxy = ProxyConfig.model_validate_json(json.dumps(header["proxy"]))
    found = _begun(out, {"table": table.name, "seed": seed, "batch_size": proxy.batch_size})
    scores = found["scores"]
    with tempfile.TemporaryDirectory() as cache:
        dataset = load_dataset(proxy, seed, Path(cache))
    images, labels = next(MemorySource(dataset, proxy, seed=seed, device="cpu").train_batches(0))
    shape = (dataset.in_channels, proxy.resolution, proxy.resolution)
    genotypes = space.genotypes()
    order = np.random.default_rng(seed).permutation(len(genotypes))[:most].tolist()
    for done, net in enumerate(tqdm([net for net in order if str(net) not in scores], unit="network", mininterval=10)):
        reset_process(seed, num_threads=1)
        model = build_model(genotypes[net], dataset.num_classes, dataset.in_channels)
        row: dict[str, Any] = {"num_params": num_params(model), "num_macs": num_macs(model, shape)}
        seconds = {}
        for name in SCORES:
            begin = time.process_time()
            score = zero_cost_scores(model, images, labels, [name])[name]
            row[name] = score if math.isfinite(score) else None
            seconds[name] = round(time.process_time() - begin, 4)
        scores[str(net)] = row | {"seconds": seconds}
        if done % 20 == 19:
            write_atomically(out, json.dumps(found, indent=1))
    found["tau"] = compare(space, scores)
    write_atomically(out, json.dumps(found, indent=1))
    return found


def _begun(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What `out` has so far. Raises UserError for a file of something else."""
    if not out.exists():
        return asked | {"versions": {"torch": torch.__version__}, "scores": {}}
    try:
        found = json.loads(out.read_text(encoding="utf-8"))
        same = all(found[name] == value for name, value in asked.items()) and isinstance(found["scores"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        same, found = False, {}
    if not same:
        raise UserError(f"{out}: scores of something else than {asked}; name another --out")
    return found


def compare(space: TableSpace, scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Set of networks -> judgement -> {tau, low, high, count} against the accuracy at the end of the training.

    Sets: all; those with an operator in some block; those of one operator alone. Judgements: counts, zero-cost scores
    and their mean rank; epochs_1 and so on: the accuracy of one training after as many epochs, against the mean of the
    others. What that has after the last epoch is about the most that any judgement can have.
    """
    names = [*COUNTS, *SCORES]
    nets = np.array(sorted(map(int, scores)))
    columns = {name: np.array([scores[str(net)][name] for net in nets], dtype=np.float64) for name in names}
    columns[TOGETHER] = np.mean([rankdata(np.nan_to_num(columns[name], nan=-np.inf)) for name in RANKED], axis=0)
    truth = {name: 1 - space.points[nets, 0] for name in columns}
    if space.num_seeds > 1:
        for epoch in range(1, space.epochs + 1):
            columns[f"epochs_{epoch}"] = 1 - space.curves[nets, 0, epoch - 1]
            truth[f"epochs_{epoch}"] = 1 - space.curves[nets, 1:, -1].mean(axis=1)
    judged = {name: np.stack([column, truth[name]], axis=1) for name, column in columns.items()}
    return {
        group: {name: kendall(pairs[rows].tolist()) for name, pairs in judged.items()}
        for group, rows in groups([space.genotypes()[net] for net in nets]).items()
    }


def groups(genotypes: Sequence[Genotype]) -> dict[str, NDArray[np.int64]]:
    """Name -> positions of networks: all, `with OPERATOR`, `only OPERATOR`."""
    inside = [{block.operator.op for block in genotype.blocks if block.operator} for genotype in genotypes]
    found = {"all": np.arange(len(inside))}
    for operator in sorted(set().union(*inside)):
        found[f"with {operator}"] = np.flatnonzero([operator in operators for operators in inside])
        found[f"only {operator}"] = np.flatnonzero([operators == {operator} for operators in inside])
    return found


def to_text(found: dict[str, Any]) -> str:
    """A table of tau: a row per judgement, a column per set."""
    lines = ["Kendall's tau against the accuracy after training", "judgement    " + " ".join(map(_cell, found["tau"]))]
    for name in found["tau"]["all"]:
        cells = [judged[name] for judged in found["tau"].values()]
        texts = ["-" if cell is None else f"{cell['tau']:.2f}" for cell in cells]
        lines.append(f"{name:<12} " + " ".join(map(_cell, texts, found["tau"])))
    return "\n".join(lines)


def _cell(text: str, heading: str = "") -> str:
    return text.rjust(max(8, len(heading)))
