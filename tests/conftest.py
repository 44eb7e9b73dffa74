"""Fixtures that several test files share."""

import pytest

pytest.register_assert_rewrite("dashboard_pages")

from dashboard_pages import browser, context, kept_page, open_page  # noqa: E402, F401


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay together where several processes share them; the longest first, as they must not be left to one
    of them at the end."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: {"test_search_kills": 0, "processes": 1}.get(_group(item), 2))


def _group(item: pytest.Item) -> str:
    """A file, or all files that fork their processes from one server, which is slow to start."""
    return "processes" if hasattr(getattr(item, "module", None), "processes") else item.path.stem
