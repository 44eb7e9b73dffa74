"""Hugging Face data sets: saved to disk or as files, they train as a folder of the same images does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from test_prepare import picture

from nas.config.sections import RetrainConfig
from nas.data.images.parts import list_evaluation, list_parts
from nas.data.images.reading import DataError
from nas.data.sources import open_source
from nas.data.streaming import StreamingSource

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """The same 24 + 12 images as folders of classes, saved to disk, and as Parquet files."""
    root = tmp_path_factory.mktemp("hub")
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)})
    parts = {}
    for part, count in (("train", 8), ("validation", 4)):
        cells, labels = [], []
        for label, name in enumerate(NAMES):
            for number in range(count):
                buffer = io.BytesIO()
                picture(100 * label + number + len(part)).save(buffer, "PNG")
                path = root / "folder" / part.replace("validation", "val") / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(buffer.getvalue())
                cells.append({"bytes": buffer.getvalue(), "path": None})
                labels.append(label)
        parts[part] = datasets.Dataset.from_dict({"photo": cells, "kind": labels}, features=features)
        (root / "parquet").mkdir(exist_ok=True)
        parts[part].to_parquet(root / "parquet" / f"{part}-00000-of-00001.parquet")
    datasets.DatasetDict(parts).save_to_disk(root / "saved")
    return {name: root / name for name in ("folder", "saved", "parquet")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_it_trains_as_the_folder_does(roots, tmp_path, kind):
    """Equal batches of training, with a worker process, and of evaluation; equal class names."""
    config = RetrainConfig(resolution=16, batch_size=7, augment="crop_flip")
    options = {"seed": 0, "device": "cpu", "cache_dir": tmp_path}
    folder = open_source(config, data_dir=roots["folder"], **options)
    hub = open_source(config, data_dir=Path(f"hf:{roots[kind]}"), num_workers=1, **options)
    assert isinstance(hub, StreamingSource) and hub.class_names == folder.class_names == tuple(NAMES)
    assert (hub.num_train, hub.num_validation) == (24, 12) and hub.fingerprint != folder.fingerprint
    for epoch in range(2):
        for ours, theirs in zip(hub.train_batches(epoch), folder.train_batches(epoch), strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    for ours, theirs in zip(hub.validation_batches(), folder.validation_batches(), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_a_part_without_evaluation_is_split(roots):
    training = Path(f"hf:{roots['saved'] / 'train'}")
    parts = list_parts(training)
    assert len(parts.training) == len(list_evaluation(training)[0]) == 24 and parts.evaluation is None
    config = RetrainConfig(resolution=16, batch_size=7)
    source = StreamingSource(Path(f"hf:{roots['saved'] / 'train'}"), config, seed=0, device="cpu", num_workers=0)
    assert source.num_train + source.num_validation == 24 and source.num_validation == 3


def saved(path: Path, **columns) -> Path:
    found = {"photo": [{"bytes": b"x", "path": None}] * 4, "kind": [0, 0, 1, 1]} | columns
    features = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)})
    keep = {name: features[name] if name in features else datasets.Value("int64") for name in found}
    datasets.Dataset.from_dict(found, features=datasets.Features(keep)).save_to_disk(path)
    return path


def test_what_does_not_serve_is_named(roots, tmp_path):
    with pytest.raises(DataError, match=r"hf:/no/such/folder: cannot be loaded as a data set \(.+\)"):
        list_parts(Path("hf:/no/such/folder"))
    with pytest.raises(DataError, match="rows without a class in train"):
        list_parts(Path(f"hf:{saved(tmp_path / 'unlabelled', kind=[0, 0, 1, -1])}"))
    plain = datasets.Dataset.from_dict({"number": [1, 2]})
    plain.save_to_disk(tmp_path / "plain")
    with pytest.raises(DataError, match="expected one column of type Image in train, not number: Value"):
        list_parts(Path(f"hf:{tmp_path / 'plain'}"))
    datasets.DatasetDict({"test": plain}).save_to_disk(tmp_path / "test_only")
    with pytest.raises(DataError, match="has no train or training, only test"):
        list_parts(Path(f"hf:{tmp_path / 'test_only'}"))
    source = StreamingSource(
        Path(f"hf:{saved(tmp_path / 'broken')}"), RetrainConfig(resolution=16), seed=0, device="cpu", num_workers=0
    )
    with pytest.raises(DataError, match=r"broken train\[\d\]: unreadable image"):
        list(source.train_batches(0))
