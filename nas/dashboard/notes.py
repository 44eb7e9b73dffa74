"""What people note of the trials of a run: stars and words, in one small file of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas.base.files import write_atomically
from nas.runs.reader import GARBLED

NOTES = "notes.json"
LONGEST = 2000
MOST_BYTES = 5 * LONGEST
Note = dict[str, Any]


def read_notes(run_dir: Path) -> dict[str, Note]:
    """Number of a trial as text -> `star` and `text`; nothing where the file is not there or is of something else."""
    try:
        found = json.loads((run_dir / NOTES).read_text(encoding="utf-8"))
        return {str(int(number)): _checked(note) for number, note in found.items()}
    except GARBLED:
        return {}


def write_note(run_dir: Path, number: int, given: bytes) -> None:
    """Keep what is noted of a trial, JSON with `star` and `text`; with neither the trial is left out.

    Raises ValueError for something else, OSError where the folder cannot be written.
    """
    try:
        note = _checked(json.loads(given))
    except RecursionError as problem:
        raise ValueError("a note has star and text") from problem
    notes = {name: kept for name, kept in read_notes(run_dir).items() if name != str(number)}
    if note["star"] or note["text"]:
        notes[str(number)] = note
    write_atomically(run_dir / NOTES, json.dumps(notes, indent=1) + "\n")


def _checked(note: Any) -> Note:
    if not isinstance(note, dict) or note.keys() != {"star", "text"}:
        raise ValueError("a note has star and text")
    star, text = note["star"], note["text"]
    if not isinstance(star, bool) or not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"a note has star: true or false, and text of at most {LONGEST} characters")
    return {"star": star, "text": text.strip()}
