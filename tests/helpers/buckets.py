"""A bucket on a real S3 server, moto's, on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow.fs import FileSelector, FileType, S3FileSystem

KEYS = {"AWS_ACCESS_KEY_ID": "us", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
"""What the environment of its users needs."""
PORT = 5999


@contextmanager
def bucket(address: str, log: Path) -> Iterator[S3FileSystem]:
    """The bucket `ours` on a server at that address, until the end; KEYS must be in the environment."""
    command = [sys.executable, "-m", "moto.server", "-H", address, "-p", str(PORT)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        while "Running on" not in log.read_text():
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        place = {"endpoint_override": f"{address}:{PORT}", "scheme": "http", "region": "us-east-1"}
        files = S3FileSystem(**place, allow_bucket_creation=True, allow_bucket_deletion=True)
        files.create_dir("ours")
        yield files
    finally:
        server.kill()
        server.wait()


def url(address: str) -> str:
    """What resources.storage_path says of a folder in that bucket."""
    return f"s3://ours/runs?endpoint_override={address}:{PORT}&scheme=http&region=us-east-1"


def kept(files: S3FileSystem) -> list[str]:
    """The files in that folder."""
    found = files.get_file_info(FileSelector("ours/runs", recursive=True, allow_not_found=True))
    return [info.path for info in found if info.type == FileType.File]
