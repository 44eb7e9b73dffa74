"""Which form of a kernel runs is what these tests are about: nothing is set."""

import pytest


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPNAS_KERNELS", raising=False)
