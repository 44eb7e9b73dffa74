"""FairShare: how many of a cluster's places are this search's, where several searches run on it."""

from __future__ import annotations

import secrets
import time

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

PREFIX = b"opnas-search:"
SILENT_SECONDS = 15.0


class FairShare:
    """Searches tell the cluster's head that they are there, again and again, and share its places equally.

    One that has not said so for a while, by this host's clock, is gone.
    """

    def __init__(self) -> None:
        self._key = PREFIX + f"{time.time():.3f}-{secrets.token_hex(8)}".encode()
        self._heard: dict[bytes, tuple[bytes, float]] = {}

    def of(self, places: int) -> int:
        """This search's part of so many places; the longest there have what is left over, and each has one."""
        _internal_kv_put(self._key, str(time.monotonic()).encode(), overwrite=True)
        now, alive = time.monotonic(), []
        for key in sorted(_internal_kv_list(PREFIX)):
            said = _internal_kv_get(key) or b""
            before, since = self._heard.get(key, (b"", now))
            self._heard[key] = (said, since if said == before else now)
            if now - self._heard[key][1] < SILENT_SECONDS:
                alive.append(key)
        index = alive.index(self._key) if self._key in alive else len(alive)
        count = max(len(alive), index + 1)
        return max(1, places // count + (index < places % count))

    def leave(self) -> None:
        _internal_kv_del(self._key)
