"""The text of one token, as the decoder in `tokenizer.json` makes it."""

import re
from typing import Any

from quantreg.checkpoints.tokenizer_files import TokenizerFiles, steps_of
from quantreg.tokenization.utf8 import CHARACTER_BYTES

__all__ = ["decoded", "marks_spaces"]


def decoded(files: TokenizerFiles, token: str) -> str:
    """Return the text that a text of this one token decodes to."""
    text = token
    for step in steps_of(_decoder(files)):
        text = _step(step, text)
    if files.config.get("clean_up_tokenization_spaces") is True and files.model_type != "BPE":
        text = _without_spaces(text)
    return text


def marks_spaces(files: TokenizerFiles) -> bool:
    """Say whether "▁" stands for a space in tokens: not where the characters of tokens stand for bytes."""
    return all(step.get("type") != "ByteLevel" for step in steps_of(_decoder(files)))


def _decoder(files: TokenizerFiles) -> Any:
    bytes_alone = "decoder" not in files.tokenizer and files.has("vocab.json")
    return {"type": "ByteLevel"} if bytes_alone else files.tokenizer.get("decoder")


def _step(step: dict[str, Any], text: str) -> str:
    kind = step.get("type")
    if kind == "ByteLevel":
        return _of_bytes(text)
    if kind == "Replace":
        pattern, content = step.get("pattern"), step.get("content")
        if isinstance(pattern, dict) and isinstance(pattern.get("String"), str) and isinstance(content, str):
            return text.replace(pattern["String"], content)
    elif kind == "ByteFallback":
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
            return bytes([int(text[3:5], 16)]).decode("utf-8", "replace")
    elif kind == "Strip":
        return _stripped(step, text)
    elif kind == "Metaspace":
        mark = step.get("replacement") or "▁"
        prepended = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space") is not False
        if prepended and text.startswith(mark):
            text = text[len(mark) :]
        return text.replace(mark, " ")
    elif kind == "WordPiece":
        return _without_spaces(text) if step.get("cleanup", True) else text
    elif kind == "BPEDecoder":
        return text.replace(step.get("suffix") or "</w>", "")
    return text


def _of_bytes(text: str) -> str:
    """The text whose bytes the characters stand for; the same text where they stand for none.

    The reference writes "\ufffd" where the bytes are no UTF-8, as those of "é" are not. Such a token would never be
    found in a text.
    """
    raw = [CHARACTER_BYTES.get(character) for character in text]
    try:
        return text if None in raw else bytes(byte for byte in raw if byte is not None).decode("utf-8")
    except UnicodeDecodeError:
        return text


def _stripped(step: dict[str, Any], text: str) -> str:
    content = step.get("content")
    if not isinstance(content, str) or len(content) != 1:
        return text
    for _ in range(_count(step.get("start"))):
        text = text.removeprefix(content)
    for _ in range(_count(step.get("stop"))):
        text = text.removesuffix(content)
    return text


def _count(number: Any) -> int:
    return min(number, 1 << 10) if isinstance(number, int) else 0


def _without_spaces(text: str) -> str:
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for end in ("n't", "'m"):
        text = text.replace(f" {end}", end)
    text = text.replace(" do not", " don't")
    for end in ("'s", "'ve", "'re"):
        text = text.replace(f" {end}", end)
    return text
