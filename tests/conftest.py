"""Fixtures that several test files share."""

import pytest

pytest.register_assert_rewrite("dashboard_pages")

from dashboard_pages import browser, context, kept_page, open_page  # noqa: E402, F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest file first: where several processes share the files, it must not be left to one at the end."""
    items.sort(key=lambda item: item.path.stem != "test_search_kills")
