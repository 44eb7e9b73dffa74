"""Fixtures that several test files share."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("dashboard_pages")

from dashboard_pages import browser, context, kept_page, open_page  # noqa: E402, F401
from digit_images import digits_folder  # noqa: E402, F401

LONG = ("test_search_kills", "test_timm_models", "test_train")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where decoded images are kept: the digits are read once."""
    return tmp_path_factory.mktemp("cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with long files that would come late: where several processes share the files, none is left to one at the
    end."""
    items.sort(key=lambda item: item.path.stem not in LONG)
