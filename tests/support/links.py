"""Symbolic links: Windows leaves them to administrators and to its developer mode, and Wine has none."""

import os
import tempfile

import pytest


def _work() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "link")
        try:
            os.symlink("nowhere", link)
        except OSError:
            return False
        return os.path.islink(link)


needs_links = pytest.mark.skipif(not _work(), reason="no symbolic links can be made here")
