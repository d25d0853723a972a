"""Texts for the part `quality`: the source code and the documentation of the packages that are installed."""

import hashlib
import sys
from pathlib import Path

__all__ = ["english", "python_source"]

# The packages that fit a model must not judge it: a package is one or the other, by its name.
FIT, JUDGE = 0, 1
TESTS = {"test", "tests", "testing", "_vendor", "vendored-packages", "__pycache__"}
MOST_OF_A_PACKAGE = 10  # a package gives at most one part in this many


def python_source(size, role=JUDGE, roots=None):
    """Return (text of about ``size`` characters, its packages): Python source, not of the standard library."""
    return _gathered(("*.py",), size, role, roots)


def english(size, role=JUDGE, roots=None):
    """Return the same of Markdown, reStructuredText and the descriptions of packages: technical English."""
    return _gathered(("*.md", "*.rst", "METADATA"), size, role, roots)


def _number(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _gathered(patterns, size, role, roots):
    roots = [Path(root) for root in roots or sys.path if Path(root).name in ("site-packages", "dist-packages")]
    named = [(path, path.relative_to(root)) for root in roots for p in patterns for path in root.rglob(p)]
    chosen = [
        (path, name)
        for path, name in named
        if not TESTS.intersection(name.parts)
        and _number(_package(name)) % 2 == role
        and "quantreg" not in name.parts[0]
    ]
    left, found, packages = size, [], {}
    for path, name in sorted(chosen, key=lambda pair: _number(pair[1].as_posix())):
        text = path.read_text(encoding="utf-8", errors="ignore").strip()
        package = _package(name)
        if len(text) < 2000 or packages.get(package, 0) > size / MOST_OF_A_PACKAGE:
            continue
        text = text[: size // 20]
        packages[package] = packages.get(package, 0) + len(text)
        found.append(text)
        left -= len(text)
        if left <= 0:
            break
    return "\n\n".join(found), sorted(packages)


def _package(name):
    """The package that a path belongs to: a wheel's folder of metadata goes with its code."""
    return name.parts[0].split("-")[0].removesuffix(".py").lower()
