"""The conformance kit: checks of what every codec must do, which run with and without pytest.

quantreg.testing.check_codec("MY_Q3", level="full")           # raises ConformanceError, which lists the failed checks

class TestMyQ3(quantreg.testing.CodecConformance):            # one pytest test per check
    qtype = "MY_Q3"
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantreg.testing.report import ConformanceError, Outcome, Report
    from quantreg.testing.runner import CHECKS, check_codec
    from quantreg.testing.samples import make_rows
    from quantreg.testing.strategies import importances, rows
    from quantreg.testing.suite import CodecConformance
    from quantreg.testing.values import deserved_error

__all__ = [
    "CHECKS",
    "CodecConformance",
    "ConformanceError",
    "Outcome",
    "Report",
    "check_codec",
    "deserved_error",
    "importances",
    "make_rows",
    "rows",
]

# Public name -> module that holds it. pytest and hypothesis are optional, and are imported only when they are needed.
_HOMES = {
    "CHECKS": "runner",
    "CodecConformance": "suite",
    "ConformanceError": "report",
    "Outcome": "report",
    "Report": "report",
    "check_codec": "runner",
    "deserved_error": "values",
    "importances": "strategies",
    "make_rows": "samples",
    "rows": "strategies",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'quantreg.testing' has no attribute {name!r}")
    value: object = getattr(import_module(f"quantreg.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
