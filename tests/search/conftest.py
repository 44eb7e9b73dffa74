"""The browser for the test of a page that follows a search."""

import pytest

pytest.register_assert_rewrite("helpers.dashboard_pages")

from helpers.dashboard_pages import context, kept_page, open_page  # noqa: E402, F401
