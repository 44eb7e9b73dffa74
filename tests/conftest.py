"""Fixtures that several test files share."""

import pytest

pytest.register_assert_rewrite("dashboard_pages")

from dashboard_pages import browser, context, open_page  # noqa: E402, F401
