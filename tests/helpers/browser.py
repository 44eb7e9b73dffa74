"""A real Chromium for tests of pages, or the reason why there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium, or the one that Playwright installed; skips the tests where there is neither."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            # the sandbox of Chromium does not start for root
            sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=found, args=sandbox)
        except Error as error:
            if found:
                raise
            pytest.skip(f"no Chromium on the path, and none of Playwright's: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
