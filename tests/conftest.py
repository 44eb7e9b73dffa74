"""Fixtures that several test files share."""

from dashboard_pages import browser, context, open_page  # noqa: F401
