"""Tests run against the installed quantreg, never against the source folders beside them."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [p for p in sys.path if Path(p or os.getcwd()).resolve() != ROOT]
sys.path.insert(0, str(ROOT / "tests" / "support"))

# What started the tests may ignore these (nohup, a job in the background), and so would they and their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("quantreg", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", parent=settings.get_profile("quantreg"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quantreg"))


def pytest_sessionstart(session):
    import quantreg

    home = Path(quantreg.__file__).resolve()
    editable = type(quantreg.__spec__.loader).__module__.startswith("_quantreg_editable")
    if ROOT in home.parents and ROOT / "quantreg" in home.parents and not editable:
        pytest.exit(
            f"the tests would import the source folder {home.parent} instead of an installed quantreg: run "
            "`pip install '.[test]'`, then `pytest` from the root of the clone",
            returncode=3,
        )


@pytest.fixture(scope="module")
def torch_device():
    """Let torch make tensors on the device that QUANTREG_TEST_DEVICE names, such as cuda; by default on the CPU."""
    import torch

    torch.set_default_device(os.environ.get("QUANTREG_TEST_DEVICE", "cpu"))
    yield
    torch.set_default_device(None)


@pytest.fixture
def run(capsys):
    """Call the command in this process; return the exit code, stdout and stderr."""
    from quantreg import cli

    def call(*args):
        code = cli.main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call
