"""Which images train and which evaluate: one rule for class folders, tar shards and Hugging Face data sets.

By name, in any case: `train` or `training` holds what trains; `val`, `valid`, `validation`, `eval` or `evaluation` what
evaluates (timm's synonyms), and where there is none of these `test` or `testing`. These are folders with one folder per
class or with tar shards, or the words of the shards' file names, or the splits of a data set. A folder with such a
child is a data set of these parts; a child that looks like a part is never a class. Two children for one part are
refused. Without any such name, the classes or shards of the folder itself are everything.

A retraining is evaluated on the evaluating part, whose classes have to be among those that train. Where there is none,
a tenth of the training images is held out, which is said. A search sees the training part alone.

ImageNet's validation images as they are downloaded, in one flat folder, have the classes that a file near them says:
see `nas.data.images.imagenet`. Of Kaggle's folder the parts are those below ILSVRC/Data/CLS-LOC. Its authors' tars are
read in place, see `nas.data.images.imagenet_tars`.

`nas evaluate` scores all images of the evaluating part, or of a folder without parts; it never splits, and never takes
a part that trains because there is no other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nas.data.images.folders import FolderListing, list_folder
from nas.data.images.hub_images import HubListing, is_hub, list_split, open_hub
from nas.data.images.imagenet import by_imagenet_number, list_flat
from nas.data.images.imagenet_tars import VAL
from nas.data.images.reading import DataError
from nas.data.images.shards import ShardListing, list_shards

NAMES = {
    "training": ("train", "training"),
    "evaluation": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
ROLES = {name: role for role, names in NAMES.items() for name in names}
LOOKS_LIKE_A_PART = re.compile(rf"({'|'.join(ROLES)})([-_ .]?(\d+|set|split|part|data|images?|imgs?))*", re.IGNORECASE)
PART_NAMES = ", ".join(ROLES)

Listing = FolderListing | ShardListing | HubListing


@dataclass(frozen=True)
class Asked:
    """What a user says of the images: names of the parts where the rule above has none or others, and a file that lists
    the classes, one in a line, in the order of their numbers; images of other classes are left out."""

    training: str | None = None
    evaluation: str | None = None
    class_map: str | None = None


@dataclass(frozen=True)
class Parts:
    """The images that train, those that evaluate, where there are any, and what is worth saying of them."""

    training: Listing
    evaluation: Listing | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """Where a part lies; `find(to_train)` looks for its images."""

    name: str
    find: Callable[[bool], Listing]


def list_parts(data_dir: Path, cache_dir: Path | None = None, asked: Asked | None = None) -> Parts:
    """The images of a folder, or of a Hugging Face data set (`hf:NAME`), by the rule above.

    `cache_dir` keeps the index of shards. Raises DataError.
    """
    asked = asked or Asked()
    parts = _parts(data_dir, cache_dir, asked)
    found = parts.get("training") or parts.get("all")
    if found is None:
        raise DataError(f"{data_dir}: has no {' or '.join(NAMES['training'])}, only {_named(parts)}")
    training = found.find(True)
    if asked.class_map is not None:
        training = _mapped(training, Path(asked.class_map))
    held = parts.get("evaluation") or parts.get("test")
    if held is None:
        return Parts(training, None, (*_notes(training), f"{data_dir}: no {' or '.join(NAMES['evaluation'])}"))
    evaluation = held.find(False)
    if asked.class_map is not None:
        evaluation = _mapped(evaluation, Path(asked.class_map))
    evaluation = matched(evaluation, training.class_names, f"{data_dir}: {held.name}")
    notes = [*_notes(training), *_notes(evaluation)]
    if held.name.lower() != "val":
        notes.append(f"{data_dir}: evaluated on {held.name}")
    present = set(map(int, evaluation.labels))
    if missing := [name for label, name in enumerate(training.class_names) if label not in present]:
        notes.append(f"{data_dir}: {held.name} has no images of {len(missing)} classes: {_some(missing)}")
    return Parts(training, evaluation, tuple(notes))


def list_evaluation(
    data_dir: Path, cache_dir: Path | None = None, asked: Asked | None = None
) -> tuple[Listing, list[str]]:
    """The images that `nas evaluate` scores, by the rule above, and what is worth saying of them. Raises DataError."""
    asked = asked or Asked()
    parts = _parts(data_dir, cache_dir, asked)
    found = parts.get("evaluation") or parts.get("test") or parts.get("all")
    if found is None:
        raise DataError(
            f"{data_dir}: has {_named(parts)}, which trains, and no {' or '.join(NAMES['evaluation'])}; to score "
            "training images all the same, name the folder that they lie in"
        )
    listing = found.find(False)
    if asked.class_map is not None:
        listing = _mapped(listing, Path(asked.class_map))
    return listing, _notes(listing)


def matched(listing: Listing, class_names: Sequence[str], where: str) -> Listing:
    """The listing with the labels of these classes, by name. Raises DataError for a class that is not among them."""
    if tuple(class_names) == listing.class_names:
        return listing
    used = np.unique(np.asarray(listing.labels, dtype=np.int64))
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = [name for name in (listing.class_names[label] for label in used) if name not in numbers]
    if unknown:
        raise DataError(
            f"{where}: {len(unknown)} classes are not among the {len(class_names)} trained ones "
            f"({_some(class_names)}): {_some(unknown)}"
        )
    return _renumbered(listing, class_names)


def by_number(listing: Listing, class_names: Sequence[str]) -> Listing:
    """Of classes that are called 0, 1, ... up to as many as there are, as ImageNet-V2's: under these names."""
    if set(listing.class_names) != set(map(str, range(len(class_names)))):
        return listing
    names = tuple(class_names[by_imagenet_number(class_names)[int(name)]] for name in listing.class_names)
    return replace(listing, class_names=names)


def _renumbered(listing: Listing, class_names: Sequence[str]) -> Listing:
    """With the numbers of these classes, -1 where a class is none of them."""
    numbers = {name: number for number, name in enumerate(class_names)}
    new = np.array([numbers.get(name, -1) for name in listing.class_names], dtype=np.int64)
    labels = new[np.asarray(listing.labels, dtype=np.int64)]
    changed = tuple(labels.tolist()) if isinstance(listing, FolderListing) else labels
    return replace(listing, labels=changed, class_names=tuple(class_names))  # pyright: ignore[reportArgumentType]


def _mapped(listing: Listing, class_map: Path) -> Listing:
    """The images of the classes that a file lists, numbered in its order. Raises DataError."""
    try:
        lines = class_map.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{class_map}: no list of classes ({error})") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if len(set(names)) != len(names) or len(names) < 2:
        raise DataError(f"{class_map}: expected two or more classes, one in a line, each once")
    if unknown := [name for name in names if name not in listing.class_names]:
        raise DataError(f"{class_map}: the images have no class {_some(unknown)}")
    return of_classes(listing, names)


def of_classes(listing: Listing, class_names: Sequence[str]) -> Listing:
    """The images of these classes alone, with their numbers."""
    found = _renumbered(listing, class_names)
    return found.take(np.flatnonzero(np.asarray(found.labels) >= 0).tolist())


def _parts(data_dir: Path, cache_dir: Path | None, asked: Asked) -> dict[str, _Part]:
    """The parts of a folder or data set by their role; `all` where nothing is named after one."""
    if is_hub(data_dir):
        return _hub_parts(data_dir, asked)
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder; expected one folder of images per class in it")
    if (kaggle := data_dir / "ILSVRC" / "Data" / "CLS-LOC").is_dir():
        data_dir = kaggle
    folders = sorted(item.name for item in os.scandir(data_dir) if item.is_dir() and not item.name.startswith("."))
    parts = {
        role: _Part(name, partial(_list_child, data_dir, name, cache_dir))
        for role, name in _roles(data_dir, folders, asked).items()
    }
    tars = sorted(data_dir.glob("*.tar"))
    beside = [path for path in tars if "training" not in parts or path.name == VAL]
    parts = _tar_parts(data_dir, beside, cache_dir) | parts
    if parts:
        return parts
    if alike := [name for name in folders if LOOKS_LIKE_A_PART.fullmatch(name)]:
        raise DataError(
            f"{data_dir}: {_some(alike)}: looks like a part of the images and no class; known are {PART_NAMES}"
        )
    if (flat := list_flat(data_dir)) is not None:
        return {"all": _Part("its images", lambda to_train: flat)}
    if tars and not folders:
        return {"all": _Part("its shards", partial(_list_tars, data_dir, tars, cache_dir))}
    return {"all": _Part("its classes", lambda to_train: list_folder(data_dir, to_train=to_train))}


def _hub_parts(data_dir: Path, asked: Asked) -> dict[str, _Part]:
    """The splits of a data set of the hub by their role."""
    splits, is_whole = open_hub(data_dir)
    found = {name: _Part(name, partial(_list_split, data_dir, name, table)) for name, table in splits.items()}
    if is_whole:
        return {"all": found.popitem()[1]}
    if parts := {role: found[name] for role, name in _roles(data_dir, splits, asked).items()}:
        return parts
    raise DataError(f"{data_dir}: has the splits {', '.join(splits)}; expected some of {PART_NAMES}")


def _tar_parts(data_dir: Path, tars: Iterable[Path], cache_dir: Path | None) -> dict[str, _Part]:
    """Shards side by side, by the role that a word of their name stands for."""
    shards: dict[str, list[Path]] = {}
    for path in tars:
        words = re.findall("[a-z]+", path.stem.lower())
        for role in {ROLES[word] for word in words if word in ROLES}:
            shards.setdefault(role, []).append(path)
    return {
        role: _Part(paths[0].name, partial(_list_tars, data_dir, paths, cache_dir)) for role, paths in shards.items()
    }


def _roles(data_dir: Path, names: Iterable[str], asked: Asked) -> dict[str, str]:
    """Role -> the one name that stands for it, that which is asked for where one is."""
    names = list(names)
    wanted = {"training": asked.training, "evaluation": asked.evaluation}
    found = {role: name for role, name in wanted.items() if name is not None}
    if absent := [name for name in found.values() if name not in names]:
        raise DataError(f"{data_dir}: has no part {absent[0]!r}; it has {_some(names) or 'none'}")
    names = [name for name in names if name not in found.values() and wanted.get(ROLES.get(name.lower(), "")) is None]
    for name in names:
        role = ROLES.get(name.lower())
        if role in found:
            raise DataError(f"{data_dir}: {found[role]} and {name} stand for the same part; expected one of them")
        if role:
            found[role] = name
    return found


def _list_child(data_dir: Path, name: str, cache_dir: Path | None, to_train: bool) -> Listing:
    shards = sorted((data_dir / name).glob("*.tar"))
    if shards:
        return list_shards(data_dir, shards, cache_dir)
    flat = None if to_train else list_flat(data_dir / name)
    return flat or list_folder(data_dir / name, to_train=to_train)


def _list_tars(data_dir: Path, shards: Sequence[Path], cache_dir: Path | None, to_train: bool) -> Listing:
    return list_shards(data_dir, shards, cache_dir)


def _list_split(data_dir: Path, name: str, table: object, to_train: bool) -> Listing:
    return list_split(data_dir, name, table)


def _notes(listing: Listing) -> list[str]:
    return listing.notes if isinstance(listing, FolderListing) else []


def _named(parts: dict[str, _Part]) -> str:
    return ", ".join(part.name for part in parts.values())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
