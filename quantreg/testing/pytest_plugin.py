"""The option --update-golden: ``pytest_plugins = ["quantreg.testing.pytest_plugin"]`` in conftest.py."""


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files of codecs anew")
