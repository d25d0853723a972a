"""The code blocks of the documentation, for tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


class Block(NamedTuple):
    language: str
    title: str | None
    text: str


def blocks(name):
    """The fenced code blocks of docs/<name>, in order. A block without a language has the language ""."""
    found = re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', (DOCS / name).read_text("utf-8"), re.M | re.S)
    return [Block(language, title or None, text) for language, title, text in found]


def indented(name):
    """The indented code blocks of docs/<name>: what stands four spaces deep below an empty line, outside lists."""
    text = re.sub(r"^```.*?^```$", "", (DOCS / name).read_text("utf-8"), flags=re.M | re.S)
    found = re.findall(r"(?:^|\n)([^\n]*)\n\n((?: {4}[^\n]*\n|\n(?= {4}))+)", text)
    return [block for before, block in found if not re.match(r" *(- |\d+\. )|  ", before)]


def pages():
    """The names of all pages: those of docs/, and the files beside it that the site shows."""
    beside = ("../plugins/README.md", "../CONTRIBUTING.md", "../SECURITY.md")
    return [*sorted(path.name for path in DOCS.glob("*.md")), *beside]


def file_in(name, title):
    """The code block with this title in docs/<name>."""
    (text,) = (block.text for block in blocks(name) if block.title == title)
    return text
