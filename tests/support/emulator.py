"""Runs compiled functions of this process on an emulated processor: of a CPU level, say, that the machine lacks.

The emulator is Bochs (package ``bochscpu-python``). It sees the memory of this process at the same addresses, so that a
function finds its arguments, its constants and the C library where they are. Linux on x86-64.
"""

import ctypes
import mmap
import subprocess
import sys
import tempfile
import threading
from array import array
from functools import partial
from pathlib import Path
from typing import NamedTuple

__all__ = ["Emulator", "Trace"]

PAGE = mmap.PAGESIZE
STACK = 4 << 20

# Memory is mapped in pieces of 1 GiB, by tables of two levels; the first emulated piece holds the tables themselves.
PIECE_BITS = 30
PIECES = 512
MOST_PIECES = 1 << 10  # the processor has 40 address lines
PRESENT, WRITABLE, IS_PIECE = 1, 2, 1 << 7

# Control registers of 64-bit mode with paging, SSE, and all wide registers.
CR4_FXSR, CR4_XMM_EXCEPTIONS, CR4_XSAVE = 1 << 9, 1 << 10, 1 << 18
XCR0_TO_ZMM = 0xE7
CODE, DATA = 0xA09B, 0xC093
MXCSR, FPCW, RFLAGS = 0x1F80, 0x37F, 2
HALT = 0xF4

# The wheel asks for symbols of glibc 2.38; an older one has the same functions under their old names.
OLD_GLIBC = """
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
unsigned long __isoc23_strtoul(const char *s, char **e, int b) { return strtoul(s, e, b); }
unsigned long long __isoc23_strtoull(const char *s, char **e, int b) { return strtoull(s, e, b); }
long __isoc23_strtol(const char *s, char **e, int b) { return strtol(s, e, b); }
long long __isoc23_strtoll(const char *s, char **e, int b) { return strtoll(s, e, b); }
int __isoc23_sscanf(const char *s, const char *f, ...) {
    va_list a; va_start(a, f); int n = vsscanf(s, f, a); va_end(a); return n;
}
"""


class Trace(NamedTuple):
    """What was run: spans are (first, last address) of instructions that follow each other; order has their numbers."""

    spans: list
    order: array


class Emulator:
    """An emulated processor in front of this process's memory. There is at most one; calls wait for each other."""

    _made = False

    def __init__(self):
        if Emulator._made:
            raise RuntimeError("there is an emulator already: its package holds one processor")
        Emulator._made = True
        self._bochs = _import_bochs()
        self._lock = threading.Lock()
        self._stack = mmap.mmap(-1, STACK)
        self._bottom = ctypes.addressof(ctypes.c_char.from_buffer(self._stack))
        self._stack[0] = HALT
        self._pieces = {}  # number of a piece of this process's memory -> that of the emulated memory
        self._tables = {}  # number of 512 pieces, or "top" -> array of entries
        self._session = self._bochs.Session()
        self._session.missing_page_handler = partial(_insert_page, self._bochs.memory, self._pieces)
        self._table("top")

    def call(self, function, *arguments, trace=False):
        """Run the function at this address with integer arguments. Returns (its result, a `Trace` if asked for).

        RuntimeError if the processor lacks an instruction, or where there is no memory far and wide; a wild access
        beside memory faults as it would without the emulator. No system is behind it: no system calls, no new memory.
        Code must not change between calls: it is decoded once.
        """
        with self._lock:
            self._map()
            return self._run(function, arguments, trace)

    def _run(self, function, arguments, trace):
        at, numbers, order, failures = function, {}, array("L"), []

        def branch(_session, _cpu, source, target):
            nonlocal at
            order.append(numbers.setdefault((at, source), len(numbers)))
            at = target

        def exception(session, _cpu, vector, _code):
            # 6: no such instruction; 14: no such page, at 0 after a system call
            failures.append(f"exception {vector} at {session.cpu.rip:#x}")
            session.stop()

        hook = self._bochs.Hook()
        hook.hlt = lambda session, _cpu: session.stop()
        hook.exception = exception
        if trace:
            hook.cnear_branch_taken = branch
            hook.ucnear_branch = lambda session, cpu, _what, source, target: branch(session, cpu, source, target)
        self._session.cpu.state = self._state(function, arguments)
        self._session.run([hook])
        if failures:
            raise RuntimeError(f"the emulated code met {failures[0]}")
        return self._session.cpu.state.rax, Trace(list(numbers), order) if trace else None

    def _state(self, function, arguments):
        state = self._bochs.State()
        self._bochs.cpu.set_long_mode(state)
        state.cr3 = self._address("top")
        state.cr4 |= CR4_FXSR | CR4_XMM_EXCEPTIONS | CR4_XSAVE
        state.xcr0, state.mxcsr, state.mxcsr_mask = XCR0_TO_ZMM, MXCSR, 0xFFFF
        state.fpcw, state.rflags = FPCW, RFLAGS
        for name in ("cs", "ds", "es", "ss", "fs", "gs"):
            segment = self._bochs.Segment()
            segment.present, segment.limit, segment.attr = True, 0xFFFFFFFF, CODE if name == "cs" else DATA
            segment.base = _thread_pointer() if name == "fs" else 0
            segment.selector = 0x10 if name == "cs" else 0x18
            setattr(state, name, segment)
        registers, on_stack = arguments[:6], arguments[6:]
        top = self._bottom + STACK - PAGE - 8
        for i, value in enumerate((self._bottom, *on_stack)):  # it returns to the halt
            ctypes.c_uint64.from_address(top + 8 * i).value = value
        state.rsp, state.rip = top, function
        for name, value in zip(("rdi", "rsi", "rdx", "rcx", "r8", "r9"), registers, strict=False):
            setattr(state, name, value)
        return state

    def _map(self):
        """Map each piece of 1 GiB in which this process has memory."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights[0] != "r":
                continue
            first, last = (int(text, 16) for text in span.split("-"))
            for piece in range(first >> PIECE_BITS, ((last - 1) >> PIECE_BITS) + 1):
                if piece not in self._pieces and piece < PIECES * PIECES // 2:
                    if len(self._pieces) + 1 == MOST_PIECES:
                        raise RuntimeError("this process has memory in too many places to be emulated")
                    self._pieces[piece] = len(self._pieces) + 1
                    upper = self._table("top")
                    entries = self._table(piece // PIECES)
                    upper[piece // PIECES] = self._address(piece // PIECES) | PRESENT | WRITABLE
                    entries[piece % PIECES] = self._pieces[piece] << PIECE_BITS | PRESENT | WRITABLE | IS_PIECE

    def _table(self, key):
        if key not in self._tables:
            page = mmap.mmap(-1, PAGE)
            self._tables[key] = (ctypes.c_uint64 * PIECES).from_buffer(page)
            self._bochs.memory.page_insert(self._address(key), ctypes.addressof(self._tables[key]))
        return self._tables[key]

    def _address(self, key):
        """Emulated address of a table."""
        return PAGE * list(self._tables).index(key)


def _insert_page(memory, pieces, address):
    """The emulator asks for a page that it has not yet seen."""
    real = list(pieces)[(address >> PIECE_BITS) - 1] << PIECE_BITS | address & ((1 << PIECE_BITS) - PAGE)
    memory.page_insert(address & -PAGE, real)


def _import_bochs():
    try:
        import bochscpu.cpu
    except ImportError as error:
        if "__isoc23" not in str(error):
            raise
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "old_glibc.so")
            compiler = ["cc", "-shared", "-fPIC", "-xc", "-", "-o", library]
            subprocess.run(compiler, input=OLD_GLIBC, text=True, check=True)
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        for name in [name for name in sys.modules if name.startswith("bochscpu")]:
            del sys.modules[name]
        import bochscpu.cpu
    import bochscpu.memory

    return bochscpu


def _thread_pointer():
    """Address of this thread's own variables, which the C library needs."""
    function = ctypes.CDLL(None).pthread_self  # on x86-64 the thread's descriptor stands where FS points
    function.restype = ctypes.c_size_t
    return function()
