"""The code blocks of the documentation, for tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs"


class Block(NamedTuple):
    language: str
    title: str | None
    text: str


def blocks(name):
    """The fenced code blocks of docs/<name>, in order."""
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', (DOCS / name).read_text(), re.M | re.S)
    return [Block(language, title or None, text) for language, title, text in found]


def file_in(name, title):
    """The code block with this title in docs/<name>."""
    (text,) = (block.text for block in blocks(name) if block.title == title)
    return text
