"""Removes passwords from database URLs before they are written or shown."""

from __future__ import annotations

import re

# scheme and user, password: up to the last @, since one that was not escaped may have @, / and : in it
CREDENTIALS = re.compile(r"([\w+.-]+://[^\s:/@]*):(\S*)@")
PARAMETER = re.compile(r"([?&](?:ssl)?password=)[^\s&'\"]*")


def hidden(text: str) -> str:
    """The text with *** for the password of every URL in it."""
    return PARAMETER.sub(r"\1***", CREDENTIALS.sub(r"\1:***@", text))


def without_password(url: str) -> str:
    """The URL as it is kept; a database's own ways, such as PGPASSWORD and ~/.pgpass, make it complete again."""
    kept = re.sub(r"[?&](?:ssl)?password=[^\s&]*", "", CREDENTIALS.sub(r"\1@", url))
    return kept if "?" in kept else kept.replace("&", "?", 1)
