"""Sealing: what says what runs is encrypted and authenticated under the user's key, bound to its study and part.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. Who has the server's password and not the key can replay or
deny, but not choose what runs.
"""

from __future__ import annotations

import base64
import functools
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from mrun.engine.errors import SealError, SettingsError
from mrun.engine.lazy import lazy

if TYPE_CHECKING:
    from mrun.engine.store import cipher
else:
    cipher = lazy("mrun.engine.store.cipher")

_KEY_FILE = "seal.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12
#: Version of the sealed form; the first byte of each.
_VERSION = b"\x01"
#: What a sealed text begins with where it stands among texts in the clear.
_TEXT_MARK = "sealed:"


class Seal:
    """Seals and opens texts under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @functools.cached_property
    def _cipher(self) -> cipher.AESGCM:
        return cipher.AESGCM(self._key)

    def close(self, text: bytes, study: str, part: str) -> bytes:
        """The sealed form of `text`, to be opened only as `part` of `study`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, text, _bound(study, part))

    def open(self, sealed: bytes, study: str, part: str) -> bytes:
        """The text again.

        Raises:
            SealError: it was sealed under another key, for another study or part, or was changed.
        """
        version, nonce, cipher_text = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, cipher_text if version == _VERSION else b"", _bound(study, part))
        except (cipher.InvalidTag, ValueError) as error:
            raise SealError(
                f"Study '{study}' was queued with another key than this user's ({part} can't be opened).",
                hint="Copy seal.key from the configuration directory of the machine that queued it.",
            ) from error

    def close_text(self, text: str, study: str, part: str) -> str:
        """The sealed form as printable text."""
        return _TEXT_MARK + base64.b64encode(self.close(text.encode(), study, part)).decode()

    def open_text(self, text: str, study: str, part: str) -> str:
        """What `close_text` sealed; a text that was never sealed is returned as it is. Raises as `open`."""
        if not text.startswith(_TEXT_MARK):
            return text
        try:
            sealed = base64.b64decode(text[len(_TEXT_MARK) :], validate=True)
        except ValueError as error:
            raise SealError(f"A sealed text of study '{study}' was changed ({part}).") from error
        return self.open(sealed, study, part).decode(errors="replace")


def _bound(study: str, part: str) -> bytes:
    """What a seal is good for, authenticated with the text."""
    return f"{study}\0{part}".encode()


def load_seal(config_dir: Path) -> Seal:
    """The user's key, made at the first use (0600). Safe when several processes make it at once: one wins."""
    path = config_dir / _KEY_FILE
    try:
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The key file '{path}' can't be used: {error}.",
            hint="Mend it, or remove it: studies queued with it can then not be worked on any more.",
        ) from error
    if len(key) != _KEY_BYTES:
        raise SettingsError(
            f"The key file '{path}' does not hold a key of {_KEY_BYTES} bytes.",
            hint="Remove it: studies queued with it can then not be worked on any more.",
        )
    return Seal(key)


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, not a rename: it fails if another process was first, whose key then counts.
        os.link(mine, path)
    except FileExistsError:
        pass
    finally:
        mine.unlink()
