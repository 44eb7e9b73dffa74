"""Which form of an operation is the fastest on a device, measured once for each case and kept for later runs.

A record is one file per device and versions: what was measured under another version of torch, of Triton or of our
kernels says nothing here. It is replaced as a whole, so that a process that is killed leaves what it had measured so
far, or one case less.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nas import kernels
from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.base.locks import file_lock
from nas.base.machine import processor
from nas.kernels.tools.choosing import FORMS, Case, compile_ahead, fastest, forced

NEAR = 20  # one image more or less in so many
KEEP_SECONDS = 1.0  # of work that a kill may cost
ExclusiveOn = Callable[[torch.device], AbstractContextManager]


@dataclass(frozen=True)
class Choices:
    """The form of each case, by its text, and how it came to that, in words."""

    forms: dict[str, str]
    summary: str


def choose(
    cases: Mapping[Case, str],
    folder: Path | None,
    exclusive: ExclusiveOn = nullcontext,
    seconds: float = math.inf,
) -> Choices:
    """The fastest form of each case (`cases`: with that of the rule): from the records in `folder`, or measured now and
    kept there.

    `exclusive(device)` is held around each measurement. A process that comes while another one measures waits for it. A
    folder that cannot be written to, or locked, is read if it can be. A case of nearly as many images as another one
    has that one's form. Cases that `seconds` do not suffice for are absent, all of them under an OPNAS_KERNELS that
    forces a form.
    """
    if forced():
        return Choices({}, "OPNAS_KERNELS says which forms run")
    found: dict[Case, str] = {}
    begin, compiling, counts = time.monotonic(), 0.0, Counter[str]()
    for name in dict.fromkeys(str(case.setting[0]) for case in cases):
        device = torch.device(name)
        with _Record.opened(folder, device) as record:
            ours = {case: rule for case, rule in cases.items() if case.setting[0] == name}
            since = time.monotonic()
            counts["compiled"] += compile_ahead(_measured_now(ours, record), seconds)
            compiling += time.monotonic() - since
            for case, rule in ours.items():
                if case.setting[0] != name:
                    continue
                if form := record.form(case):
                    how = "kept"
                elif form := _of_near(case, found):
                    how = "near"
                elif time.monotonic() - begin - compiling < seconds:
                    with exclusive(device):
                        measured = fastest(case, rule)
                    record.add(case, measured.form, measured.milliseconds)
                    form, how = measured.form, "measured"
                else:
                    counts["left"] += 1
                    continue
                found[case] = form
                counts[how] += 1
    num_others = sum(form != cases[case] for case, form in found.items())
    words = f"{len(cases)} calls of kernels: {counts['kept']} known, {counts['measured']} measured, "
    words += f"{counts['near']} nearly the same" + (f", {counts['left']} left to the rule" if counts["left"] else "")
    words += f", in {time.monotonic() - begin:.1f} s"
    words += f", of them {compiling:.1f} s to compile {counts['compiled']} kernels" if counts["compiled"] else ""
    words += f"; {num_others} run in another form than the rule's"
    return Choices({str(case): form for case, form in found.items()}, words)


def _of_near(case: Case, found: Mapping[Case, str]) -> str | None:
    """The form of a case that differs by a few images alone."""
    images = case.arguments[0].shape[0]
    for other in range(images - images // NEAR, images + images // NEAR + 1):
        near = case.with_images(images, other) if images > 1 else case
        if near in found:
            return found[near]
    return None


def _measured_now(cases: Mapping[Case, str], record: _Record) -> dict[Case, str]:
    """Those that are neither known nor nearly the same as one before them."""
    new, before = dict[Case, str](), dict[Case, str]()
    for case, rule in cases.items():
        if not record.form(case) and not _of_near(case, before):
            new[case] = rule
        before[case] = rule
    return new


def describe_device(device: torch.device) -> dict[str, Any]:
    """All that measured times depend on: hardware, versions, the code of our kernels."""
    about: dict[str, Any] = {"device": processor(), "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {"device": properties.name, "multiprocessors": properties.multi_processor_count}
        about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}
        try:
            about["triton"] = version("triton")
        except PackageNotFoundError:
            about["triton"] = None
    return about | {"kernels": _code()}


class _Record:
    """The file of a device: case -> its form and the milliseconds of those that were tried."""

    def __init__(self, path: Path | None, about: Mapping[str, Any]):
        self._path, self._about, self._kept = path, about, time.monotonic()
        self._new = False
        self._cases: dict[str, dict[str, Any]] = {}
        try:
            read = json.loads(path.read_text(encoding="utf-8")) if path else {}
            if read.get("about") == about:
                self._cases = dict(read["cases"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or nothing of ours
            pass

    @staticmethod
    @contextmanager
    def opened(folder: Path | None, device: torch.device):
        """The record of a device, by one process at a time."""
        about = describe_device(device)
        text = json.dumps(about, sort_keys=True)
        name = re.sub(r"[^a-z0-9]+", "_", about["device"].lower()).strip("_")
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        path = None if folder is None else folder / f"{name}-{digest}.json"
        lock: AbstractContextManager = nullcontext()
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = file_lock(path.with_suffix(".lock"))
                lock.__enter__()
            except (OSError, UserError):  # read-only, or without locks
                lock = nullcontext()
        try:
            record = _Record(path, about)
            try:
                yield record
            finally:
                record.keep()
        finally:
            lock.__exit__(None, None, None)

    def form(self, case: Case) -> str | None:
        """What was measured as the fastest, if it is a form of this version."""
        form = self._cases.get(str(case), {}).get("form")
        return form if form in FORMS[case.forms].forms else None

    def add(self, case: Case, form: str, milliseconds: Mapping[str, float]) -> None:
        rounded = {name: float(f"{ms:.4g}") for name, ms in milliseconds.items()}
        self._cases[str(case)] = {"form": form, "milliseconds": rounded}
        self._new = True
        if time.monotonic() - self._kept > KEEP_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write what is new, where that is possible."""
        if self._path is not None and self._new:
            text = json.dumps({"about": self._about, "cases": self._cases}, indent=1)
            try:
                write_atomically(self._path, text + "\n")
            except OSError:  # it is measured again another time
                self._path = None
        self._new, self._kept = False, time.monotonic()


def _driver() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None


def _code() -> str:
    """A hash of the sources of our kernels."""
    folder, digest = Path(kernels.__file__).parent, hashlib.blake2b(digest_size=6)
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
