"""Text as bytes and bytes as text, invalid UTF-8 included.

A text may hold bytes that are no UTF-8 as the lone surrogates of Python's surrogateescape handler, which is how
``open(path, errors="surrogateescape")`` reads them. They become the tokens that the reference makes of such bytes.
"""

from quantreg.errors import TokenizerError

__all__ = ["BYTE_CHARACTERS", "CHARACTER_BYTES", "as_bytes", "as_characters", "escaped_bytes"]

# Byte-pair vocabularies write each byte as a printable character: itself, or one from U+0100 on.
_printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_others = [byte for byte in range(256) if byte not in _printable]
BYTE_CHARACTERS: dict[int, int] = {
    byte: byte if byte in _printable else 256 + _others.index(byte) for byte in range(256)
}
CHARACTER_BYTES: dict[str, int] = {chr(character): byte for byte, character in BYTE_CHARACTERS.items()}


def as_bytes(text: str) -> bytes:
    """Encode characters as UTF-8, surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def escaped_bytes(text: str) -> bytes:
    """Return the bytes that a text stands for.

    Raises TokenizerError if it holds a surrogate that stands for no byte.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which UTF-8 "
            'cannot hold: remove it, or read the file with errors="surrogateescape"'
        ) from None


def as_characters(text: str) -> str:
    """Return the text with every byte that is no UTF-8 as U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _decoded(escaped_bytes(text))
    return text


def _decoded(raw: bytes) -> str:
    """Decode as the reference does: it takes overlong forms and surrogates, and each bad byte is one U+FFFD."""
    found, at = [], 0
    while at < len(raw):
        lead = raw[at]
        size = (
            1
            if lead < 0x80
            else 2
            if 0xC0 <= lead < 0xE0
            else 3
            if 0xE0 <= lead < 0xF0
            else 4
            if 0xF0 <= lead < 0xF8
            else 0
        )
        tail = raw[at + 1 : at + size]
        code = lead & (0x7F if size == 1 else 0xFF >> (size + 1))
        for byte in tail:
            code = code << 6 | byte & 0x3F
        if size == 0 or len(tail) != size - 1 or any(byte & 0xC0 != 0x80 for byte in tail) or code > 0x10FFFF:
            code, size = 0xFFFD, 1
        found.append(chr(code))
        at += size
    return "".join(found)
