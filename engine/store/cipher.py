"""The cipher of `seal.py`, which is loaded when something is sealed or opened: few short commands do."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["AESGCM", "InvalidTag"]
