"""Launches that are kept, without a GPU: by a driver that notes what would be started, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="there is no triton for this platform")
from nas.kernels._core import prepared

ROOT = Path(__file__).parents[2]


def test_what_is_kept_starts_what_triton_would_start(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("prepared_launches.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["4", "1", "1", "1", "compiled", "before"]


def test_no_more_are_kept_than_are_allowed(monkeypatch):
    made = []
    monkeypatch.setattr(prepared, "MOST", 2)
    monkeypatch.setattr(prepared, "_ready", {})
    for width in (1, 2, 2, 3, 1):
        prepared.start(lambda width: made.append(width) or [], width)
    assert len(prepared._ready) <= 2
