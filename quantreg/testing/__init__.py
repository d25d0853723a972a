"""The conformance kit: what every codec must do, as checks that run with and without pytest.

quantreg.testing.check_codec("MY_Q3", level="full")           # raises ConformanceError, with every failed check

class TestMyQ3(quantreg.testing.CodecConformance):            # one pytest test a check
    qtype = "MY_Q3"
"""

from importlib import import_module

# public name -> module that holds it: pytest and hypothesis are imported only by those who use them
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

__all__ = sorted(_HOMES)


def __getattr__(name):
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'quantreg.testing' has no attribute {name!r}")
    value = getattr(import_module(f"quantreg.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})
