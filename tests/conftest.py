"""Fixtures that several test files share."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("dashboard_pages")

from dashboard_pages import browser, context, kept_page, open_page  # noqa: E402, F401


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where decoded images are kept: the digits are read once."""
    return tmp_path_factory.mktemp("cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest file first: where several processes share the files, it must not be left to one at the end."""
    items.sort(key=lambda item: item.path.stem != "test_search_kills")
