"""Mistakes: what a network takes for what, and the wrong images of which it was the surest, kept by its weights."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nas.base.files import write_atomically
from nas.data.batches import Batch
from nas.data.evaluation import EvaluationSource
from nas.deploy.trained import TrainedNetwork
from nas.runs.retrainings import MISTAKES
from nas.training.loop import Count, Evaluated

MOST_CLASSES, MOST_PAIRS, MOST_IMAGES, MOST_SIDE = 40, 30, 24, 64


class Mistakes:
    """Looks on while a network is evaluated on it, in the place of `source`, and counted by what `beside` gives.

    Of several passes over a batch, as for several dtypes, the first counts. Batches of a listing have rows of it in the
    place of labels.
    """

    def __init__(self, trained: TrainedNetwork, source: Evaluated):
        self._trained, self._source = trained, source
        self._listing = source.listing if isinstance(source, EvaluationSource) else None
        self._counts: Counter[int] = Counter()
        self._worst: list[tuple[float, int, int, int, Tensor]] = []
        """Probability, place among the images, label, prediction, pixels [C, H, W] as the network got them."""
        self._num_images = 0
        self._images: Tensor | None = None

    def validation_batches(self) -> Iterator[Batch]:
        """The batches of the source."""
        for images, labels in self._source.validation_batches():
            self._images = images
            yield images, labels

    def beside(self, count: Count) -> Count:
        """The same way of counting, which notes what is wrong in each batch."""

        def noted(logits: Tensor, labels: Tensor) -> Tensor:
            if self._images is not None:
                self._note(self._images, logits.float().softmax(1).cpu(), labels.cpu())
                self._images = None
            return count(logits, labels)

        return noted

    def _note(self, images: Tensor, shares: Tensor, labels: Tensor) -> None:
        places = torch.arange(self._num_images, self._num_images + len(labels))
        if self._listing is not None:  # labels are rows
            places, labels = labels, torch.as_tensor(self._listing.labels, dtype=torch.int64)[labels]
        self._num_images += len(labels)
        probabilities, predicted = shares.max(1)
        pairs, times = (labels * shares.shape[1] + predicted).unique(return_counts=True)
        self._counts.update(dict(zip(pairs.tolist(), times.tolist(), strict=True)))
        wrong = (predicted != labels).nonzero()[:, 0]
        for at in wrong[probabilities[wrong].argsort(descending=True, stable=True)][:MOST_IMAGES].tolist():
            place, label, guess = (int(values[at]) for values in (places, labels, predicted))
            self._worst.append((float(probabilities[at]), place, label, guess, images[at].cpu().clone()))
        self._worst.sort(key=lambda one: (-one[0], one[1]))
        del self._worst[MOST_IMAGES:]

    def found(self) -> dict[str, Any]:
        """num_images, num_wrong, class_names, `matrix` (rows: label, columns: predicted; None for more than
        MOST_CLASSES classes), `pairs`, those that are confused most, and `images`, wrong ones, the surest first: index
        in the order of evaluation, file, label, predicted, probability of that, png of at most MOST_SIDE pixels."""
        names, size = self._trained.class_names, self._trained.described["num_classes"]
        counted = {divmod(pair, size): times for pair, times in self._counts.items()}
        of_label: Counter[int] = Counter()
        for (label, _), times in counted.items():
            of_label[label] += times
        wrong = sorted((-times, *pair) for pair, times in counted.items() if pair[0] != pair[1])
        few = size <= MOST_CLASSES
        return {
            "num_images": self._num_images,
            "num_wrong": -sum(times for times, *_ in wrong),
            "class_names": names if few else None,
            "matrix": [[counted.get((i, j), 0) for j in range(size)] for i in range(size)] if few else None,
            "pairs": [
                {"label": names[i], "predicted": names[j], "count": -times, "of": of_label[i]}
                for times, i, j in wrong[:MOST_PAIRS]
            ],
            "images": [
                {
                    "index": place,
                    "file": None if self._listing is None else self._listing.file_name(place),
                    "label": names[label],
                    "predicted": names[predicted],
                    "probability": probability,
                    "png": self._thumbnail(pixels),
                }
                for probability, place, label, predicted, pixels in self._worst
            ],
        }

    def write(self, data: str, resolution: int) -> Path:
        """Keep what was found, on images that `data` names, as the file MISTAKES beside the weights. Raises OSError."""
        about = {"weights": self._trained.of_epoch, "data": data, "resolution": resolution}
        path = self._trained.folder / MISTAKES
        write_atomically(path, json.dumps(about | self.found()) + "\n")
        return path

    def _thumbnail(self, pixels: Tensor) -> str:
        preparation = self._trained.preparation
        mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
        values = ((pixels.float() * std + mean) * 255).round().clamp(0, 255).byte().numpy()
        picture = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
        picture.thumbnail((MOST_SIDE, MOST_SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        return base64.b64encode(file.getvalue()).decode()
