"""The example notebook in a real Jupyter kernel, and what a kernel does to a search: an event loop, Ctrl-C, threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nas

NOTEBOOK = Path(__file__).parents[2] / "search_spaces" / "quickstart.ipynb"
FEWER = 'SMALL |= {"proxy.max_images_per_class": 40, "search.num_trials": 4, "search.measured_first": 1}'
INTERRUPTED = """
import os, signal, threading, time
from pathlib import Path

FEW = {"proxy.max_images_per_class": 20, "search.measured_first": 0, "resources.max_concurrent": 1}

def interrupt():
    while not list(Path("results/cut/trials").glob("*.json")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
threading.Thread(target=interrupt, daemon=True).start()
try:
    nas.search("search_spaces/quickstart.yaml", name="cut", overrides=SMALL | {"proxy.epochs": 5} | FEW)
except KeyboardInterrupt as stop:
    print(stop)
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
"""
IN_A_THREAD = """
import sys

done = []
more = {"proxy.epochs": 5} | FEW | {"search.num_trials": len(nas.Run("cut").trials()) + 1}
options = {"name": "cut", "resume": True, "overrides": SMALL | more}
thread = threading.Thread(target=lambda: done.append(nas.search("search_spaces/quickstart.yaml", **options)))
thread.start()
thread.join()
assert len(done[0].trials()) >= more["search.num_trials"], done[0].trials()
assert not sys.modules["ray"].is_initialized()
"""


def test_the_cells_run_and_a_kernel_can_interrupt_a_search(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="pip install opnas[dev]")
    client_of = pytest.importorskip("nbclient", reason="pip install opnas[dev]").NotebookClient
    pytest.importorskip("ipykernel", reason="pip install opnas[dev]")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {"interrupted": INTERRUPTED, "in a thread": IN_A_THREAD}
    plan = next(number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells[plan].source = notebook.cells[plan].source.replace("print(", f"{FEWER}\nprint(")
    notebook.cells += [nbformat.v4.new_code_cell(source, id=name.replace(" ", "-")) for name, source in cells.items()]
    client_of(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    planned, search, front, picture, costs, top1, evaluated, interrupted, _ = [
        cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    ]
    assert "4 trainings by surrogate" in planned[0].text
    lines = said(search, "stderr").splitlines()
    assert any(line.startswith("notebook: 4 trainings by surrogate") for line in lines), lines
    assert sum(line.startswith("4/4  trial ") for line in lines) == 1, lines
    assert not any("\r" in line or "\x1b" in line for line in lines)
    run = nas.Run(tmp_path / "results" / "notebook")
    assert all(key in front[0].data["text/html"] for key in run.front().key)
    assert picture[0].data["image/png"]
    assert "num_params" in costs[0].data["text/plain"]
    assert run.trained().summary["top1"] == pytest.approx(float(top1[-1].data["text/plain"]))
    assert "'num_images'" in evaluated[-1].data["text/plain"]
    assert "stopped by SIGINT" in said(interrupted, "stdout")


def said(outputs: list[Any], stream: str) -> str:
    return "".join(output.text for output in outputs if output.get("name") == stream)
