"""Using a retrained network: its accuracy on images at several resolutions, its guesses for single ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from nas.base.errors import UserError
from nas.base.machine import num_cpus
from nas.base.section import EMBEDDED
from nas.config.training import RetrainConfig
from nas.data.batches import OpenedSource
from nas.data.evaluation import BadImages, EvaluationSource
from nas.data.images.folders import list_files
from nas.data.images.parts import Asked, by_number, list_evaluation, matched, of_classes
from nas.data.images.reading import DataError, read_image
from nas.data.loading import loading_explained, workers_that_fit
from nas.data.sources import open_source
from nas.deploy.counting import GIVEN, REAL, read_real_labels, ways_of_counting
from nas.deploy.mistakes import Mistakes
from nas.deploy.trained import TrainedNetwork
from nas.networks.precision import DTYPES, to_device, to_memory_format, training_dtype, usable_device
from nas.training.loop import Score, measure_scores


def evaluate(
    trained: TrainedNetwork,
    data_dir: Path | None,
    cache_dir: Path,
    *,
    resolutions: Iterable[int] = (),
    batch_size: int = 128,
    device: str | None = None,
    real_labels: Path | None = None,
    keep: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> list[dict[str, Any]]:
    """Accuracy on all evaluation images of `data_dir`, which `nas.data.images.parts` names; one entry per resolution.

    An entry: resolution, num_images, dtype, loss, top1, top5. They are scored as the training scored them, under the
    autocast that its `amp` means on this device (`dtype`); where that is not float32, in which exports compute, the
    entry has float32: {loss, top1, top5} as well, of the same images. Where they are of some of the classes only it has
    among_given: {num_classes, loss, top1, top5}, the likeliest of these classes, and with the file `real_labels`
    real: {num_images, top1, top5}, see `nas.deploy.counting`. `say` is told what was left out. With `keep`, what the
    network confuses at the first resolution is kept beside its weights, see `nas.deploy.mistakes`; not for weights of
    another file. Raises UserError where the images have classes that the network does not know, and for what reading
    them raises.
    """
    training = trained.described["training"]
    # weights of another file are not the training's, and those of earlier versions do not say how images were prepared
    keep = keep and trained.file.is_relative_to(trained.folder) and "preparation" in trained.described
    model, used = trained.model(), usable_device(device)
    to_device(model, used)
    in_training = training_dtype(training["amp"], used)
    dtypes = list({in_training: 0, None: 0})
    found = []
    for resolution in resolutions or (trained.resolution,):
        with loading_explained():
            source = open_images(trained, data_dir, cache_dir, resolution, batch_size, used, say, labels_are_rows=True)
            real = None
            if real_labels is not None:
                if not isinstance(source, EvaluationSource):
                    raise UserError(f"--real-labels: are of ImageNet, not of {training['dataset']}")
                real = read_real_labels(real_labels, source.listing, trained.class_names)
            ways = ways_of_counting(source, len(trained.class_names), real)
            mistakes = Mistakes(trained, source)
            counts = list(ways.values())
            counts[0] = mistakes.beside(counts[0]) if keep else counts[0]
            scores = measure_scores(model, mistakes, dtypes, counts=counts)
        names = {dtype: name for name, dtype in DTYPES.items()}
        counted = dict(zip(ways, scores[0], strict=True))
        entry = {"resolution": resolution, "num_images": scores[0][0].count, "dtype": names[in_training]}
        entry |= _figures(scores[0][0])
        if in_training is not None:
            entry["float32"] = _figures(scores[1][0])
        if GIVEN in counted:
            assert isinstance(source, EvaluationSource)
            entry[GIVEN] = {"num_classes": len(set(map(int, source.listing.labels))), **_figures(counted[GIVEN])}
        if REAL in counted:
            score = counted[REAL]
            entry[REAL] = {"num_images": score.count, "top1": score.top1, "top5": score.top5}
        found.append(entry)
        if keep:
            keep = False
            _kept(mistakes, data_dir.name if data_dir else training["dataset"], resolution, say)
        for problem in sorted(getattr(source, "bad_images", ())):
            say(f"left out: {problem}")
        say = lambda text: None  # noqa: E731  once is enough
    return found


def _kept(mistakes: Mistakes, data: str, resolution: int, say: Callable[[str], object]) -> None:
    try:
        say(f"what it confuses, for the page of its trial: {mistakes.write(data, resolution)}")
    except OSError as error:  # a run of others may not be written to
        say(f"what it confuses is not kept: {error.filename}: {error.strerror}")


def _figures(score: Score) -> dict[str, float]:
    return {"loss": score.loss, "top1": score.top1, "top5": score.top5}


def open_images(
    trained: TrainedNetwork,
    data_dir: Path | None,
    cache_dir: Path,
    side: int,
    batch_size: int,
    device: torch.device,
    say: Callable[[str], object],
    labels_are_rows: bool = False,
) -> OpenedSource | EvaluationSource:
    """The images to score at `side` pixels; for `labels_are_rows` see EvaluationSource."""
    training, proxy = trained.described["training"], trained.described.get("proxy", {})
    if data_dir is None and proxy.get("data_dir") is not None:
        data_dir = Path(proxy["data_dir"])
    if training["dataset"] == "imagefolder":
        if data_dir is None:
            raise UserError("--data: missing; the network was trained on a folder of images")
        # of the split that the training was evaluated on, if the folder has it, else by its name
        split = training.get("evaluation_split")
        asked = Asked(evaluation=split if split and (data_dir / split).is_dir() else None)
        listing, notes = list_evaluation(data_dir, cache_dir, asked)
        if training.get("class_map"):  # which left out others in the training, too
            listing = of_classes(listing, trained.class_names)
        named = by_number(listing, trained.class_names)
        if named.class_names != listing.class_names:
            listing, notes = named, [*notes, f"{data_dir}: its classes are numbers, taken as those of the network"]
        listing = matched(listing, trained.class_names, str(data_dir))
        batch_bytes = min(batch_size, len(listing)) * trained.num_channels * side**2
        num_workers, said = workers_that_fit(min(num_cpus(), 8), batch_bytes, 1)
        for note in (*notes, *said):
            say(note)
        return EvaluationSource(
            listing,
            trained.preparation,
            side,
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
            timeout=training.get("loader_timeout", 600),
            bad_images=BadImages(training["max_bad_images"]),
            labels_are_rows=labels_are_rows,
        )
    if data_dir is not None and training["dataset"] in EMBEDDED:
        raise UserError(f"--data {data_dir}: not used; the network was trained on {training['dataset']}")
    settings = training | {"resolution": side, "batch_size": batch_size, "device_batch_size": None}
    seed = settings.pop("seed")
    config = RetrainConfig.model_validate(settings | {"augment": "none", "auto_augment": None, "color_jitter": 0.0})
    source = open_source(config, seed=seed, device=device, cache_dir=cache_dir, data_dir=data_dir)
    if list(source.class_names) != trained.class_names:
        raise UserError(
            f"{training['dataset']}: has {source.num_classes} classes ({', '.join(source.class_names[:3])}, ...), the "
            f"network {len(trained.class_names)} ({', '.join(trained.class_names[:3])}, ...)"
        )
    return source


def predict(
    trained: TrainedNetwork,
    images: Iterable[Path],
    *,
    top: int = 5,
    resolution: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """For each image file, and each image below a folder, its `top` likeliest classes.

    {image, guesses: [{class, probability}]}, or {image, error} for a file that cannot be read. A file is turned upright
    as its EXIF orientation says. Raises DataError for a folder without images.
    """
    side, preparation, used = resolution or trained.resolution, trained.preparation, usable_device(device)
    model = to_device(trained.model(), used)
    normalise = preparation.normaliser(used)
    paths = [path for given in images for path in (list_files(given) if given.is_dir() else [given])]

    def read(path: Path) -> torch.Tensor | DataError:
        try:
            return preparation.pixels(read_image(path, upright=True, channels=preparation.channels), side)
        except DataError as error:
            return error

    found = []
    with ThreadPoolExecutor(num_cpus()) as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            pixels = list(pool.map(read, batch))
            whole = [values for values in pixels if isinstance(values, torch.Tensor)]
            guesses = iter(())
            if whole:
                with torch.inference_mode():
                    logits = model(to_memory_format(normalise(torch.stack(whole).to(used))))
                guesses = iter(_guesses(logits, trained.class_names, top))
            for path, values in zip(batch, pixels, strict=True):
                readable = isinstance(values, torch.Tensor)
                found.append(
                    {"image": str(path)} | ({"guesses": next(guesses)} if readable else {"error": str(values)})
                )
    return found


def _guesses(logits: torch.Tensor, class_names: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
    """For each row of logits [N, classes] the likeliest classes, the likeliest first."""
    shares, classes = logits.float().softmax(1).topk(min(top, logits.shape[1]))
    return [
        [{"class": class_names[number], "probability": share} for number, share in zip(row, of_row, strict=True)]
        for row, of_row in zip(classes.tolist(), shares.tolist(), strict=True)
    ]


def to_csv(found: list[dict[str, Any]]) -> str:
    """Predictions as a table: image, class_1, probability_1, class_2, ..., error."""
    most = max((len(entry.get("guesses", ())) for entry in found), default=0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}_{number}" for number in range(1, most + 1) for name in ("class", "probability")]
    writer.writerow(["image", *columns, "error"])
    for entry in found:
        cells = [cell for guess in entry.get("guesses", ()) for cell in (guess["class"], f"{guess['probability']:.6f}")]
        writer.writerow([entry["image"], *cells, *[""] * (2 * most - len(cells)), entry.get("error", "")])
    return text.getvalue()
