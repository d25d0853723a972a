"""The pytest option --update-golden: put ``pytest_plugins = ["quantreg.testing.pytest_plugin"]`` into conftest.py."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Add the option."""
    parser.addoption("--update-golden", action="store_true", help="write or replace the golden files of the codecs")
