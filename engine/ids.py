"""Names that mrun makes up: study ids and worker ids."""

from __future__ import annotations

import os
import secrets
import socket
import time

#: No vowels (no words), no 0/1/l (no confusion); 28 letters.
_ALPHABET = "23456789bcdfghjkmnpqrstvwxyz"
_STUDY_ID_LENGTH = 8


def new_study_id() -> str:
    """Eight random characters: 3.8e11 ids, so that two users of one server do not meet."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_STUDY_ID_LENGTH))


def new_worker_id(host: str | None = None, pid: int | None = None) -> str:
    """`host-pid-start`: an incarnation, never used again, not even after the pid comes round."""
    start = format(time.time_ns() // 1000 % 36**8, "x")
    return f"{host or socket.gethostname()}-{pid or os.getpid()}-{start}"
