"""Fixtures, marks and the order of the test files. Nothing here imports torch, Ray or playwright: the tests of `base`,
`space`, `config` and `runs` do without.
"""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# searches of the tests measure no kernels, which would take each some seconds; those that do say so
os.environ.setdefault("OPNAS_KERNELS", "aten")

# files that take more than half a minute each, as most start searches, trainings or servers; the longest first
SLOW = (
    "test_search_kills",
    "test_cluster",
    "test_search",
    "test_evaluators",
    "test_guide",
    "test_launch",
    "test_notebook",
    "test_bench_starts",
    "test_kernel_triton",
    "test_trial",
    "test_kernel_distribution",
    "test_pinned_choices",
    "test_growth",
    "test_kernel_slot",
    "test_example",
    "test_postgres",
    "test_replicates",
    "test_detection_search",
    "test_detection",
    "test_dashboard_states",
    "test_forms",
    "test_dashboard",
)


@pytest.fixture(scope="module", autouse=True)
def garbage() -> Iterator[None]:
    """What was imported and kept so far stays: trainings in this process collect garbage, and each time would walk
    through all of it, which takes half a second."""
    gc.collect()
    gc.freeze()
    yield


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is left at the end is taken down in peace


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where decoded images are kept: the digits are read once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def only_what_is_shipped() -> Iterator[None]:
    """Operators and blocks of others that a test loads end with it: later tests find those of the package."""
    yield
    if registry := sys.modules.get("nas.space.registry"):
        for entered in registry.REGISTRIES.values():
            for name in [name for name in entered if ":" in name]:
                del entered[name]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The one Chromium of a process: playwright starts once."""
    from playwright.sync_api import expect

    from helpers.browser import chromium

    expect.set_options(timeout=20_000)  # a busy machine takes seconds to start Plotly
    with chromium() as started:
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks by what a test uses; long files start first, so that none is left to one process at the end."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        if item.path.stem == "test_postgres":
            item.add_marker("postgres")
        if item.path.parent.name == "kernels":
            item.add_marker("kernels")
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))
