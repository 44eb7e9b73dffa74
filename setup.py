"""What a package index shows of README.md, where a path leads nowhere. All else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

HERE = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?://|#)([^)\s]+)\)")


def shown(text: str, repository: str | None) -> str:
    """Links to files lead to the repository; without its address they are their text, and there are no pictures."""

    def absolute(link: re.Match) -> str:
        is_picture, words, path = link.groups()
        if repository is None:
            return "" if is_picture else words
        return f"{is_picture}[{words}]({repository}/{'raw' if is_picture else 'blob'}/HEAD/{path})"

    return LINK.sub(absolute, text)


if __name__ == "__main__":
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=shown(readme, project["urls"].get("Repository")),
        long_description_content_type="text/markdown",
    )
