"""What Windows does otherwise: open files that stay where they are, its locks, and its encodings.

On Windows these tests run as they are. Elsewhere the fixture ``windows`` switches its behaviour on.
"""

import ctypes
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import types
from contextlib import suppress
from functools import partial as partial_of

import numpy as np
import pytest

import quantreg
from quantreg import OutputError
from quantreg.cli import arguments
from quantreg.storage import AtomicFile, PartialFile, locks, one_at_a_time, system

ON_WINDOWS = os.name == "nt"

pytestmark = pytest.mark.skipif(
    not ON_WINDOWS and not os.path.isdir("/proc/self/fd"), reason="needs /proc to know which files are open"
)
simulated = pytest.mark.skipif(ON_WINDOWS, reason="looks at the simulated kernel32")


def is_open(path):
    with suppress(FileNotFoundError):
        wanted = os.stat(path)
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(fd)), wanted):
                    return True
    return False


def is_used(fd):
    return os.path.exists(f"/proc/self/fd/{fd}")


class Kernel:
    """The functions of kernel32 that quantreg calls. Locks are those of this process; ``calls`` are their names."""

    def __init__(self):
        self.locked, self.mutexes, self.calls = {}, {}, []
        self.CreateMutexW = partial_of(self._create_mutex)  # which takes attributes, as functions of a DLL do

    def LockFileEx(self, handle, flags, reserved, low, high, place):
        at = place._obj.offset | place._obj.offset_high << 32
        assert (flags, reserved, low, high) == (3, 0, 1, 0)
        stat = os.fstat(handle.value)
        self.locked = {fd: file for fd, file in self.locked.items() if fd != handle.value and is_used(fd)}
        if (stat.st_ino, at) in self.locked.values():
            return 0
        self.locked[handle.value] = (stat.st_ino, at)
        return 1

    def _create_mutex(self, security, owned, name):
        assert len(name) < 260
        assert name.startswith("Local\\")
        assert "/" not in name
        return self.mutexes.setdefault(name, 77 + len(self.mutexes))

    def WaitForSingleObject(self, handle, milliseconds):
        self.calls.append(("wait", handle.value))

    def ReleaseMutex(self, handle):
        self.calls.append(("release", handle.value))

    def CloseHandle(self, handle):
        self.calls.append(("close", handle.value))


@pytest.fixture
def windows(monkeypatch):
    """Let the storage of this process behave as on Windows. Returns the simulated kernel that it then calls."""
    if ON_WINDOWS:
        yield None
        return
    unlink, replace, kernel = os.unlink, os.replace, Kernel()

    def refused(path, *more):
        if is_open(path):
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        return unlink(path, *more)

    def moved(old, new):
        for path in (old, new):
            if is_open(path):
                raise PermissionError(errno.EACCES, "Access is denied", str(path))
        return replace(old, new)

    for name in ("pwrite", "preadv", "posix_fadvise", "fchmod"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "unlink", refused)
    monkeypatch.setattr(os, "replace", moved)
    monkeypatch.setattr(system, "OPEN_FILES_MOVE", False)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(get_osfhandle=lambda fd: fd))
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 33, raising=False)
    monkeypatch.delitem(sys.modules, "quantreg.storage.windows", raising=False)
    yield kernel
    sys.modules.pop("quantreg.storage.windows", None)
    vars(importlib.import_module("quantreg.storage")).pop("windows", None)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def partial(path, **more):
    return PartialFile(path, {"made from": "x"}, size=10, **more)


def test_a_file_is_closed_before_it_gets_its_name(tmp_path, windows):
    for make in (lambda path: AtomicFile(path, size=10), partial):
        path = tmp_path / "out"
        with make(path) as file:
            file.pwrite(b"0123456789", 0, "tensor")
        file.finish()
        assert path.read_bytes() == b"0123456789"
        path.unlink()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["atomic", "partial"])
def test_a_run_that_fails_leaves_nothing_and_its_own_error(tmp_path, windows, kind):
    path = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), AtomicFile(path) if kind == "atomic" else partial(path):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_an_interrupted_run_is_continued(tmp_path, windows):
    path = tmp_path / "out"
    with suppress(KeyboardInterrupt), partial(path) as file:
        file.pwrite(b"01234", 0, "first")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.partial", "out.partial.journal"]
    with partial(path, resume=True) as file:
        assert file.has(0, 5)
        file.pwrite(b"56789", 5, "second")
    file.finish()
    assert path.read_bytes() == b"0123456789"
    assert names(tmp_path) == ["out"]


def test_a_second_run_on_one_output_is_refused(tmp_path, windows):
    path = tmp_path / "out"
    with partial(path) as file:
        file.pwrite(b"0123456789", 0, "tensor")
        with pytest.raises(OutputError, match="another run is writing it"):
            partial(path, resume=True).__enter__()
    assert path.read_bytes() == b"0123456789"


def test_replacing_a_file_that_is_open_says_to_close_it(tmp_path, windows):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    advice = pytest.raises(OutputError, match=r"a program has the file .*out open: close the program")
    with path.open("rb"), advice, AtomicFile(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@simulated
def test_one_process_at_a_time_renames_in_a_folder(tmp_path, windows):
    with one_at_a_time(tmp_path):
        assert [name for name, _ in windows.calls] == ["wait"]
    assert [name for name, _ in windows.calls] == ["wait", "release", "close"]
    with pytest.raises(ZeroDivisionError), one_at_a_time(tmp_path / "other"):
        raise ZeroDivisionError
    assert len(windows.mutexes) == 2
    assert windows.calls[-2:] == [("release", 78), ("close", 78)]


def test_whole_models_are_written_split_and_continued(tmp_path, windows):
    model = tmp_path / "model.gguf"
    quantreg.write(model, {"general.architecture": "llama"}, {"a.weight": np.ones((4, 256), np.float32)})
    result = quantreg.quantize_file(model, tmp_path / "out.gguf", "Q8_0", resumable=True)
    assert os.path.exists(result.path)
    quantreg.quantize_file(model, tmp_path / "parts.gguf", "Q8_0", split_max_tensors=1)
    assert names(tmp_path)[0] == "model.gguf"
    assert not [name for name in names(tmp_path) if "partial" in name or "tmp" in name]


def test_ctrl_break_waits_until_files_have_their_names(monkeypatch):
    if not ON_WINDOWS:
        monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    seen = []
    old = signal.signal(signal.SIGBREAK, lambda *_: seen.append("break"))
    try:
        with locks.signals_held():
            signal.raise_signal(signal.SIGBREAK)
            assert seen == []
        assert seen == ["break"]
    finally:
        signal.signal(signal.SIGBREAK, old)


@pytest.mark.parametrize(
    ("path", "usable"),
    [
        ("C:\\models\\a.gguf", "C:\\models\\a.gguf"),
        ("C:\\" + "m" * 260 + "\\a.gguf", "\\\\?\\C:\\" + "m" * 260 + "\\a.gguf"),
        ("\\\\server\\share\\" + "m" * 260, "\\\\?\\UNC\\server\\share\\" + "m" * 260),
        ("\\\\?\\C:\\" + "m" * 260, "\\\\?\\C:\\" + "m" * 260),
    ],
)
def test_long_paths_get_the_prefix_that_windows_wants(windows, path, usable):
    assert system.usable(path) == usable


def test_macos_writes_to_the_disk_itself(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(
        sys.modules, "fcntl", types.SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda fd, what: calls.append(what))
    )
    with (tmp_path / "x").open("wb") as file:
        system.sync(file.fileno())
    assert calls == [51]


@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json")])
def test_names_that_the_encoding_of_the_output_lacks_become_escapes(tmp_path, arguments):
    model = tmp_path / "model.gguf"
    quantreg.write(
        model,
        {"general.architecture": "llama", "general.name": "中文 😀"},
        {"a.weight": np.ones((1, 256), np.float32)},
    )
    command = [sys.executable, "-P", "-m", "quantreg", *arguments, str(model)]
    found = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True)
    assert found.returncode == 0, found.stderr
    assert b"Traceback" not in found.stderr
    if "--json" in arguments:
        assert json.loads(found.stdout)["metadata"]["general.name"] == "中文 😀"
    else:
        assert b"\\u4e2d" in found.stdout


def test_on_the_command_line_of_windows_only_stars_and_question_marks_are_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAME", "other")
    for name in ("a1.gguf", "a2.gguf", "a[1].gguf", "$NAME.gguf"):
        (tmp_path / name).touch()
    assert arguments.expand(["a[1].gguf", "$NAME.gguf", "%NAME%.gguf"]) == ["a[1].gguf", "$NAME.gguf", "%NAME%.gguf"]
    assert arguments.expand(["merge", "a*.gguf"]) == ["merge", "a1.gguf", "a2.gguf", "a[1].gguf"]
    assert arguments.expand(["a[?].gguf", "b*.gguf", r"blk\.\d+=q8_0"]) == ["a[1].gguf", "b*.gguf", r"blk\.\d+=q8_0"]
    assert arguments.expand(["~", "~x"]) == [os.path.expanduser("~"), "~x"]


@pytest.mark.skipif(not ON_WINDOWS, reason="elsewhere the shell expands patterns")
def test_a_name_with_brackets_is_not_taken_for_another_file(tmp_path):
    for name, rows in (("a1.gguf", 1), ("a[1].gguf", 2)):
        quantreg.write(tmp_path / name, {"general.architecture": "llama"}, {"w": np.ones((rows, 256), np.float32)})
    command = [sys.executable, "-P", "-m", "quantreg", "inspect", "--json", str(tmp_path / "a[1].gguf")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(done.stdout)["tensors"][0]["shape"] == [2, 256]


def test_another_process_cannot_write_an_output_that_a_run_writes(tmp_path):
    other = (
        "import sys; from quantreg.storage import PartialFile\n"
        "PartialFile(sys.argv[1], {}, size=10, resume=True).__enter__()"
    )
    path = tmp_path / "out"
    command = [sys.executable, "-P", "-c", other, str(path)]
    with partial(path) as file:
        file.pwrite(b"0123456789", 0, "tensor")
        done = subprocess.run(command, capture_output=True, text=True)
        assert "OutputError" in done.stderr
        assert "another run is writing it" in done.stderr
    assert path.read_bytes() == b"0123456789"


def test_processes_take_turns_in_a_folder(tmp_path):
    other = (
        "import sys, time; from quantreg.storage import one_at_a_time\n"
        "with one_at_a_time(sys.argv[1]):\n"
        "    for word in sys.argv[2]:\n"
        "        with open(sys.argv[1] + '/log', 'a') as file: file.write(word)\n"
        "        time.sleep(0.05)\n"
    )
    command = [sys.executable, "-P", "-c", other, str(tmp_path)]
    for child in [subprocess.Popen([*command, word]) for word in ("aaaaaa", "bbbbbb", "cccccc")]:
        assert child.wait() == 0
    log = (tmp_path / "log").read_text()
    assert log == "".join(letter * 6 for letter in log[::6])
    assert sorted(log[::6]) == ["a", "b", "c"]


@pytest.mark.skipif(not ON_WINDOWS, reason="elsewhere a mapped file can be replaced")
def test_a_mapped_model_cannot_be_replaced_until_it_is_closed(tmp_path):
    path = tmp_path / "model.gguf"
    quantreg.write(path, {"general.architecture": "llama"}, {"a.weight": np.ones((4, 256), np.float32)})
    with quantreg.open(path) as model:
        tensor = model["a.weight"]
        with pytest.raises(OutputError, match=r"a program has the file .*close the program, or in Python the File"):
            quantreg.write(path, {"general.architecture": "llama"}, {}, force=True)
        assert np.all(np.asarray(tensor) == 1)
        del tensor
    quantreg.write(path, {"general.architecture": "llama"}, {}, force=True)
    assert names(tmp_path) == ["model.gguf"]


@pytest.mark.skipif(not ON_WINDOWS, reason="tests/test_resume.py sends SIGTERM elsewhere")
def test_ctrl_break_ends_the_command_and_keeps_what_is_done(tmp_path):
    model = tmp_path / "model.gguf"
    tensors = {f"blk.{i}.w": np.ones((64, 256), np.float32) for i in range(8)}
    quantreg.write(model, {"general.architecture": "llama"}, tensors)
    code = (
        "import os, signal, sys; from quantreg.storage import PartialFile; from quantreg import cli\n"
        "write = PartialFile.pwrite\n"
        "def pwrite(self, data, offset, label=None):\n"
        "    write(self, data, offset, label)\n"
        "    if label: signal.raise_signal(signal.SIGBREAK)\n"
        "PartialFile.pwrite = pwrite\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["quantize", "--resumable", str(model), str(tmp_path / "out.gguf"), "Q8_0"]
    done = subprocess.run([sys.executable, "-P", "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert names(tmp_path) == ["model.gguf", "out.gguf.partial", "out.gguf.partial.journal"]


def test_a_file_that_is_locked_is_told_from_a_disk_without_locks(tmp_path, windows):
    path = tmp_path / "out"
    path.touch()
    with path.open("rb+") as first, path.open("rb+") as second:
        locks.lock_file(first.fileno())
        with pytest.raises(BlockingIOError):
            locks.lock_file(second.fileno())
