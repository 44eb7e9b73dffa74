"""The published networks as genotypes: RedNet, OD-ResNet, OD-MobileNetV2, SCNet, HorNet and their plain baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from nas.base.errors import UserError
from nas.base.extensions import use_folder
from nas.space.dilation import undilated
from nas.space.genotype import Genotype

FOLDER = resources.files("search_spaces") / "published"


class _Published(Mapping[str, Genotype]):
    """Name -> genotype, read from search_spaces/published when asked for."""

    def __getitem__(self, name: str) -> Genotype:
        if name not in _names():
            raise KeyError(f"unknown published network {name!r}; known are {', '.join(_names())}")
        return Genotype.from_json((FOLDER / f"{name}.json").read_text(encoding="utf-8"))

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(path.name.removesuffix(".json") for path in FOLDER.iterdir() if path.name.endswith(".json")))


PUBLISHED: Mapping[str, Genotype] = _Published()


def is_published(genotype: Genotype) -> bool:
    """Whether it is one of PUBLISHED, or one of them with dilated stages (see `dilation`)."""
    return undilated(genotype) in _undilated_networks()


@cache
def _undilated_networks() -> frozenset[Genotype]:
    return frozenset(undilated(genotype) for genotype in PUBLISHED.values())


def named_genotype(name: str) -> Genotype:
    """A published network by its name, or the genotype in a JSON file; raises UserError where it is neither.

    What others made of it is imported from the file's folder, or from `code` in there.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    if not Path(name).is_file():
        raise UserError(
            f"{name!r} is neither a genotype file nor a published network; published are {', '.join(PUBLISHED)}"
        )
    try:
        genotype = Genotype.from_json(Path(name).read_text(encoding="utf-8"))
        if genotype.own_operators() or genotype.own_blocks():
            use_folder(Path(name).parent)
        return genotype.loaded()
    except (ValueError, OSError) as error:
        raise UserError(f"{name}: {error}") from None
