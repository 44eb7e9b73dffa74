"""Where figures go besides our own files: TensorBoard, Weights & Biases, MLflow, each by its package."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nas.base.errors import UserError
from nas.base.files import write_atomically

Row = dict[str, float]


class Logger(Protocol):
    """Where rows go besides the file."""

    def log(self, row: Row, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        self._writer = import_module(PACKAGES["tensorboard"]).SummaryWriter(str(folder / "tensorboard"))

    def log(self, row: Row, step: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        # the same network may be retrained elsewhere too
        identity = f"{name}-{zlib.crc32(str(folder.resolve()).encode()):08x}"
        module = import_module(PACKAGES["wandb"])
        self._run = module.init(
            project="opnas", name=name, dir=str(folder), config=settings, resume="allow", id=identity
        )

    def log(self, row: Row, step: int) -> None:
        self._run.log(row, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        kept = folder / "mlflow-run"
        begun = kept.read_text(encoding="utf-8") if kept.exists() else None
        self._module = import_module(PACKAGES["mlflow"])
        self._module.set_experiment("opnas")
        run = self._module.start_run(run_id=begun, run_name=None if begun else name)
        if begun is None:
            write_atomically(kept, run.info.run_id)
            self._module.log_params(settings)

    def log(self, row: Row, step: int) -> None:
        self._module.log_metrics(row, step=step)

    def close(self) -> None:
        self._module.end_run()


PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
LOGGERS: dict[str, Callable[[Path, str, dict[str, Any]], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_loggers(names: Iterable[str], entry: str) -> None:
    """Raise UserError for the first of those in an entry of the file whose package is not installed."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise UserError(f"{entry}: {name} needs the package {PACKAGES[name]}, which is not installed")


class Loggers:
    """Those that an entry of the file names, opened. One that fails later is left out from there on, and said to have:
    a service that is away ends neither a search nor a training.
    """

    def __init__(self, names: Sequence[str], entry: str, folder: Path, name: str, settings: dict[str, Any]):
        """`folder` keeps their files, `name` is shown for `settings`. Raises UserError where one cannot be opened."""
        self._entry = entry
        self._open: dict[str, Logger] = {}
        for logger in names:
            try:
                self._open[logger] = LOGGERS[logger](folder, name, settings)
            except Exception as error:  # whatever their packages raise
                raise UserError(f"{entry}: {logger} cannot be used: {_first_line(error)}") from error

    def log(self, row: Row, step: int) -> None:
        self._each(lambda logger: logger.log(row, step))

    def close(self) -> None:
        self._each(lambda logger: logger.close())

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune pickles what it is given, for a restoring that nobody uses: connections do not go with that."""
        return {"_entry": self._entry, "_open": {}}

    def _each(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                act(logger)
            except Exception as error:
                del self._open[name]
                print(
                    f"{self._entry}: {name} failed, and gets no more: {_first_line(error)}", file=sys.stderr, flush=True
                )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
