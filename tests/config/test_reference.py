"""The page of all keys: it says what the schema says, and every key has a meaning."""

from pathlib import Path

from nas.config import reference
from nas.config.schema import json_schema
from nas.space import specs

ROOT = Path(__file__).parents[2]


def test_page_of_keys_is_what_the_schema_says():
    """After a change: the command in the page's section "Every key"."""
    page = (ROOT / "search_spaces" / "README.md").read_text(encoding="utf-8")
    assert page.partition("\n### The file\n")[2] == reference.markdown().removeprefix("### The file\n") + "\n"


def test_every_key_has_a_meaning_and_a_row():
    schema = json_schema()
    rows = reference.markdown().splitlines()
    for section in [schema, *schema["$defs"].values()]:
        for name, entry in section.get("properties", {}).items():
            assert entry.get("description"), (section["title"], name)
            assert any(row.startswith(f"| `{name}` |") for row in rows), name


def test_limits_of_operator_options_reach_the_schema():
    conv = json_schema()["$defs"]["Conv"]["properties"]
    assert conv["kernel_size"]["minimum"] == 1 and conv["kernel_size"]["not"] == {"multipleOf": 2}
    assert "| `order` | `3` | whole number from 2 to 5 |" in reference.markdown()


def test_an_operator_of_others_has_a_table_without_meanings(tmp_path, monkeypatch):
    (tmp_path / "undescribed.py").write_text(
        "import dataclasses\nfrom torch import nn\n\n\nclass Mix(nn.Module):\n    @dataclasses.dataclass(frozen=True)\n"
        "    class Options:\n        taps: int = 2\n\n"
        "    def __init__(self, in_channels, out_channels, stride, taps):\n        super().__init__()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    specs.OPERATORS.find("undescribed:Mix")
    table = reference.markdown().partition("### `{op: undescribed:Mix}`")[2]
    assert "| `taps` | `2` | whole number |  |" in table
