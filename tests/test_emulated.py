"""CPU levels that this machine lacks, on an emulated processor: the checks of the conformance kit that take levels."""

import ctypes
import mmap

import pytest
from oracles import EMULATED, NATIVE, codec_at

from quantreg import types
from quantreg.registry import registry
from quantreg.testing.runner import run_check
from quantreg.testing.samples import Subject

pytestmark = pytest.mark.skipif(not EMULATED, reason=f"not emulated here; this machine runs {', '.join(NATIVE)}")

BUILT_IN = [name for name in types if registry.owner(types[name]).distribution == "quantreg"]

ADD_16_LANES = bytes.fromhex("62f27d487cc7 62f17d48fec0 c5f97ec0 c3")  # zmm0 = 16 times edi; zmm0 += zmm0; eax = zmm0
READ = bytes.fromhex("8b07 c3")  # eax = [rdi]
UNKNOWN = bytes.fromhex("0f0b")


class AtEmulatedLevels(Subject):
    def levels(self):
        return {level: codec_at(self.qtype.name, level) for level in (NATIVE[-1], *EMULATED)}


@pytest.mark.parametrize("check", ["cpu_levels", "guard_pages", "arbitrary_bytes"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_type_passes(name, check):
    outcome = run_check(check, AtEmulatedLevels(name, full=True))
    assert outcome.status == "passed", outcome.message


KEPT = []


def code(text):
    """Address of machine code, in memory that is never used for other code: the emulator remembers what it decoded."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(text)] = text
    KEPT.append(memory)
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_it_runs_instructions_that_this_machine_lacks():
    from emulated import emulator

    assert emulator().call(code(ADD_16_LANES), 21)[0] & 0xFFFFFFFF == 42


def test_it_sees_this_process_as_it_is_now():
    from emulated import emulator

    read = code(READ)
    for number in (7, 9):
        value = ctypes.c_uint32(number)
        assert emulator().call(read, ctypes.addressof(value))[0] & 0xFFFFFFFF == number


def test_wild_addresses_and_unknown_instructions_are_errors():
    from emulated import emulator

    with pytest.raises(RuntimeError, match="exception 14"):
        emulator().call(code(READ), 0x10)
    with pytest.raises(RuntimeError, match="exception 6"):
        emulator().call(code(UNKNOWN))


def test_there_is_one_emulator():
    from emulated import Emulator, emulator

    emulator()
    with pytest.raises(RuntimeError, match="there is an emulator already"):
        Emulator()
