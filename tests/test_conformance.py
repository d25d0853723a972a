"""Every registered type passes the whole conformance kit."""

from functools import cache

import numpy as np
import pytest
from oracles import GOLDEN, NATIVE

from quantreg import types
from quantreg.registry import registry
from quantreg.testing import CHECKS
from quantreg.testing.runner import run_check
from quantreg.testing.samples import Subject

# type -> check -> reason why it must fail
SUMS = {"error": "32 of the 292 bytes per block are sums for dot products, not weights"}
WHOLE = dict.fromkeys(("constant_rows", "error"), "the integer types round to whole numbers and have no scale")
COARSE = {"constant_rows": "its scales are 8-bit floats, which are too coarse for blocks of weights below 0.1"}
INTEGERS = dict.fromkeys(("I8", "I16", "I32", "I64"), WHOLE)
EXPECTED = {**INTEGERS, "Q8_K": SUMS, "NVFP4": COARSE}

NO_SCORER = {name for name, check in CHECKS.items() if check.needs == "scorer"}
BUILT_IN = [name for name in types if registry.owner(types[name]).distribution == "quantreg"]


@cache
def subject(name):
    return Subject(name, full=True)


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """Return a function that finds the golden file of a type: the reference's bytes in the kit's form, or our own."""
    folder = tmp_path_factory.mktemp("golden")
    with np.load(GOLDEN / "codec" / "inputs.npz") as inputs:
        given = {"x": inputs["x"], "columns": inputs["importance"]}

    def find(name):
        source = GOLDEN / "codec" / f"{name}.npz"
        if not source.exists():
            return GOLDEN / "conformance" / f"{name}.npz"
        with np.load(source) as file:
            kept = dict(file)
        np.savez(folder / f"{name}.npz", **given, **kept, data=kept["weighted"])
        return folder / f"{name}.npz"

    return find


def not_applicable(name):
    """Return the checks that do not apply to a type, according to its properties."""
    codec = types[name].codec
    encoding = {check for check in CHECKS if CHECKS[check].needs} if not codec.can_encode else set()
    scoring = set() if codec.has_scorer else NO_SCORER
    fitting = set() if types[name].parameters is not None else {"fit"}
    dots = set() if getattr(codec, "has_dot", False) else {"dot_rows"}
    return encoding | scoring | fitting | dots | {"twin"} | ({"cpu_levels"} if len(NATIVE) < 2 else set())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_type_passes(name, check, golden):
    tested = subject(name)
    if check == "golden":
        tested = Subject(name, full=True, golden=golden(name))
    outcome = run_check(check, tested, EXPECTED.get(name, {}).get(check))
    assert outcome.status in ("passed", "expected", "not applicable"), outcome.message
    assert (outcome.status == "not applicable") == (check in not_applicable(name)), outcome.message


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_cpu_level_of_this_machine_was_built(name):
    assert tuple(subject(name).levels()) == NATIVE
