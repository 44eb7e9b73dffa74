"""What TensorBoard's files say."""

from __future__ import annotations

import struct
from pathlib import Path


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) from TensorBoard's files: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    found = []
    for path in sorted(folder.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [(event.step, value.simple_value) for value in event.summary.value if value.tag == name]
            at += length + 16
    return sorted(found)
