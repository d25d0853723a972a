"""BLAKE2b of bytes and files."""

from typing import IO, Any

try:
    from _blake2 import blake2b  # that of hashlib, which loads OpenSSL: 3.5 MiB, a twelfth of what a run holds
except ImportError:  # another Python
    from hashlib import blake2b

__all__ = ["digest_of", "digest_of_file", "new_digest"]

_SIZE, _PIECE = 16, 1 << 18


def new_digest() -> Any:
    """A digest of 16 bytes that has seen nothing yet, as hashlib's are."""
    return blake2b(digest_size=_SIZE)


def digest_of(data: bytes | memoryview) -> str:
    """The digest of some bytes, as hexadecimal digits."""
    return blake2b(data, digest_size=_SIZE).hexdigest()


def digest_of_file(file: IO[bytes]) -> Any:
    """The digest of a file from where it stands."""
    found = new_digest()
    while piece := file.read(_PIECE):
        found.update(piece)
    return found
