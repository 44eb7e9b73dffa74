"""The shipped experiment files: what they offer can be built, and equal networks share a key."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from nas.config.reading import load_experiment
from nas.networks.blocks import build_block
from nas.networks.task import build_network
from nas.space import specs
from nas.space.genotype import Genotype

FILES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
NUM_CLASSES = {
    "digits": 10,
    "cluttered_digits": 10,
    "scattered_digits": 10,
    "cifar10": 10,
    "cifar100": 100,
    "imagefolder": 1000,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_thousand_draws_build_and_are_canonical(file):
    config, space = load_experiment(file)
    draw = random.Random(0)
    choices = space.choices()
    genotypes = [space.decode({name: draw.choice(values) for name, values in choices.items()}) for _ in range(1000)]
    distinct = {genotype.key: genotype for genotype in genotypes}
    for genotype in distinct.values():
        assert Genotype.from_json(genotype.to_json()).key == genotype.key
        assert space.decode(space.encode(genotype)).key == genotype.key
    in_channels = 1 if config.proxy.dataset.endswith("digits") else 3
    with torch.device("meta"):
        for genotype in list(distinct.values())[:40]:
            build_network(genotype, NUM_CLASSES[config.proxy.dataset], in_channels, config.proxy.resolution)
        for width, block in {part for genotype in distinct.values() for part in parts(genotype)}:
            build_block(width, block)
    assert len({genotype.key for genotype in genotypes}) == len(set(genotypes))


def parts(genotype: Genotype) -> list[tuple[int, specs.Block]]:
    """The blocks with the width that comes in: a network builds when its parts do, and draws share most of them."""
    widths = [genotype.stem.width, *(block.width for block in genotype.blocks)]
    return list(zip(widths, genotype.blocks, strict=False))


def test_the_quick_start_offers_all_five_operators():
    config, space = load_experiment(FILES[-1])
    assert FILES[-1].stem == "quickstart"
    assert {operator.op for operator in config.space.operators.values()} == {
        "conv",
        "involution",
        "odconv",
        "scconv",
        "gnconv",
    }
    assert len(config.objectives) == 2
    assert all(space.uniform(label) for label in config.space.operators)
