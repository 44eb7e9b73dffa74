"""How files become pixels: bit depths, orientation, formats; and evaluation's pixels, which are timm's."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import ExifTags, Image, ImageOps
from test_prepare import picture

from nas.data.images.reading import DataError, eight_bits, open_image, read_image
from nas.data.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation
from nas.data.prepare import examine

PHOTOS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
RAMP = np.arange(64 * 64).reshape(64, 64) % 4096


@pytest.mark.parametrize("crop", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_evaluation_prepares_images_as_timm_does(path, interpolation, crop):
    """Bit for bit on photographs larger than the network's images, of a size that JPEG could decode at a half."""
    from timm.data.transforms_factory import create_transform

    for side in (160, 224, 385):
        found = Preparation(IMAGENET_MEAN, IMAGENET_STD, crop, interpolation)
        theirs = create_transform((3, side, side), interpolation=interpolation, crop_pct=crop, use_prefetcher=True)
        with Image.open(path) as image:
            expected = theirs(image.convert("RGB"))  # pyright: ignore[reportCallIssue]
        assert torch.equal(found.pixels(read_image(path), side), torch.as_tensor(expected))


@pytest.mark.parametrize("bits, suffix", [(10, "png"), (12, "png"), (12, "tif"), (14, "tif"), (16, "png")])
def test_a_deep_image_keeps_its_brightness(tmp_path, bits, suffix):
    """A ramp over so many bits in a 16-bit file becomes the ramp of 8 bits."""
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray((RAMP << 4 >> (16 - bits)).astype(np.uint16)).save(path)
    found = np.asarray(read_image(path))
    assert found.shape == (64, 64, 3) and (found[:, :, 0] == RAMP >> 4).all()
    finding = examine(path)
    assert finding is not None and finding.kind == "16 bits" and finding.is_harmless
    assert f"taken as {bits} bits" in finding.detail and "values 0 to " in finding.detail


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1, (0, 255)), (0, 200, (0, 200)), (0.25, 0.75, (64, 191)), (-3, 3, (0, 255)), (0, 4000, (0, 255))],
)
def test_floating_point_images_are_seen(tmp_path, low, high, expected):
    path = tmp_path / "float.tif"
    Image.fromarray(np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)).save(path)
    found = np.asarray(read_image(path, channels=1))
    assert (found.min(), found.max()) == expected and (np.diff(found.reshape(-1).astype(int)) >= 0).all()
    finding = examine(path)
    assert finding is not None and finding.kind == "floating point" and finding.is_harmless


def test_numbers_below_0_and_no_numbers_are_no_trap():
    assert eight_bits(np.array([[-1024, 0, 3071]], dtype=np.int32)).tolist() == [[0, 64, 255]]
    assert eight_bits(np.array([[np.nan, 0.5, np.inf]], dtype=np.float32)).tolist() == [[0, 128, 0]]
    assert eight_bits(np.full((2, 2), np.nan, dtype=np.float32)).max() == 0
    assert eight_bits(np.zeros((2, 2), dtype=np.uint16)).max() == 0


def test_a_deep_image_that_shows_nothing_is_no_harmless_finding(tmp_path):
    Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    finding = examine(tmp_path / "deep.png")
    assert finding is not None and finding.kind == "blank" and not finding.is_harmless


def photo(path: Path, turn: int) -> Path:
    """A file that says how it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    picture(5, side=32).save(path, exif=exif)
    return path


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_follows_one_rule(tmp_path, turn):
    """Folders as torchvision: as stored; what is to be upright as Pillow turns it, which `datasets` uses."""
    path = photo(tmp_path / "photo.jpg", turn)
    from torchvision.datasets.folder import default_loader

    assert (np.asarray(read_image(path)) == np.asarray(default_loader(str(path)))).all()
    with Image.open(path) as image:
        turned = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (np.asarray(read_image(path, upright=True)) == turned).all()
    finding = examine(path)
    assert (finding is None) == (turn == 1)
    assert finding is None or (finding.kind == "EXIF orientation" and finding.is_harmless)


def test_images_of_a_data_set_are_turned_as_datasets_does(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    from nas.data.evaluation import read_row
    from nas.data.images.parts import list_parts

    cells = [{"bytes": photo(tmp_path / f"{turn}.jpg", turn).read_bytes(), "path": None} for turn in range(1, 9)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 4}, features=features)
    table.save_to_disk(tmp_path / "saved")
    listing = list_parts(Path(f"hf:{tmp_path / 'saved'}")).training
    for row in range(8):
        assert (np.asarray(read_row(listing, row)) == np.asarray(table[row]["image"].convert("RGB"))).all()


def test_formats_that_need_other_programs_are_not_opened(tmp_path):
    """Pillow would have Ghostscript run what an EPS file says, whatever its name is."""
    buffer = io.BytesIO()
    picture(1).save(buffer, "EPS")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="unreadable image"):
        read_image(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    "OPNAS_PILLOW_IMAGES" not in os.environ, reason="needs Pillow's Tests/images in OPNAS_PILLOW_IMAGES"
)
def test_pillows_own_images_are_read_or_named():
    """Nothing but DataError comes out of any of them, and what `prepare` finds whole is read."""
    for path in sorted(Path(os.environ["OPNAS_PILLOW_IMAGES"]).rglob("*")):
        if path.is_file():
            finding = examine(path)
            try:
                read_image(path, 32, upright=True)
            except DataError:
                assert finding is not None and not finding.is_harmless, path
            else:
                assert finding is None or finding.is_harmless or finding.kind in ("bomb", "blank"), (path, finding)
    assert open_image(PHOTOS[0]).format == "JPEG"
