"""What the repository's pages say: their code blocks, shell commands, headings."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
IS_CHECKOUT = (ROOT / ".git").exists()
needs_git = pytest.mark.skipif(not IS_CHECKOUT, reason="about what is committed: needs a checkout with git")


def files() -> list[str]:
    """Paths of the repository, those that git does not know yet included; of a source distribution those it lists."""
    if IS_CHECKOUT:
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    else:
        listed = (ROOT / "opnas.egg-info" / "SOURCES.txt").read_text(encoding="utf-8")
    copies = ("nas/kernels", "opnas.egg-info/")  # in a checkout a link, and not there
    return sorted(path for path in listed.splitlines() if not path.startswith(copies) and (ROOT / path).exists())


def pages() -> list[Path]:
    return [ROOT / path for path in files() if path.endswith(".md")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of a page's bash blocks, without their comments."""
    lines = "".join(blocks(page, "bash")).splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
