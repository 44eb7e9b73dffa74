"""Files that are whole or absent, while they are read and when their writer is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from nas.base.files import whole_file, write_atomically

WRITERS = {
    "write_atomically": "write_atomically(path, text)",
    "whole_file": "with whole_file(path) as partial: partial.write_text(text)",
}
WRITER = """
import sys
from pathlib import Path
from nas.base.files import whole_file, write_atomically
path = Path(sys.argv[1])
for number in range(1_000_000):
    text = f"{number} " * 20_000
    exec(sys.argv[2])
    print(number, flush=True)
"""


def test_a_failed_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("new")
        partial.write_text(str(1 // 0))
    assert path.read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("writer", WRITERS)
def test_readers_and_crashes_see_whole_files(tmp_path, writer):
    path = tmp_path / "file"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path, WRITERS[writer]], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            words = path.read_text().split()
            assert len(words) == 20_000 and len(set(words)) == 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        words = path.read_text().split()
        assert len(words) == 20_000 and len(set(words)) == 1


def test_what_killed_writers_of_large_files_leave_does_not_pile_up(tmp_path):
    path = tmp_path / "file"
    code = "import os, sys; from pathlib import Path; from nas.base.files import whole_file\n"
    code += "with whole_file(Path(sys.argv[1])) as partial:\n    partial.write_text('half'); os.kill(os.getpid(), 9)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, path])
        assert [item.name for item in tmp_path.iterdir()] == ["file.partial"]
    with whole_file(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole" and [item.name for item in tmp_path.iterdir()] == ["file"]
