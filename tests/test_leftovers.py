"""What a killed run leaves beside its output: the next run that writes there removes it, and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import small_model

import quantreg
from quantreg.storage import AtomicFile, AtomicFolder, PartialFile, system, temporary
from quantreg.storage.temporary import new_file, new_folder, remove_dead, temporary_folder

posix = pytest.mark.skipif(os.name != "posix", reason="Windows keeps folders, and files for a day")

WAYS = {
    "a file": "s.AtomicFile('out').__enter__().write(b'x')",
    "a file before it is locked": "s.temporary.lock_file = lambda fd: stop(); s.AtomicFile('out').__enter__()",
    "a folder": "s.AtomicFolder('new').__enter__().write('part', b'x')",
    "a folder in a folder": "os.mkdir('old'); s.AtomicFolder('old').__enter__().write('part', b'x')",
    "results of calibration": "from quantreg.jobs.tuning_folder import Folder; Folder('out').__enter__()",
    "what measures a card": "kept = s.temporary_folder('.', '.card'); kept.__enter__().joinpath('base').touch()",
}
NEXT = {
    "a file": lambda: AtomicFile("out"),
    "a file that goes on": lambda: PartialFile("out", {}, size=0),
    "a folder": lambda: AtomicFolder("new"),
    "a temporary folder": lambda: temporary_folder(".", ".card"),
}


def killed(way):
    """Run code in a process that is killed after it, or at ``stop()``."""
    kill = f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    code = f"import os, quantreg.storage as s\ndef stop(): {kill}\n{way}\nstop()"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == -signal.SIGKILL


def left(folder="."):
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files) if ".quantreg-" in name]


@posix
@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_run_leaves_is_removed_by_the_next_one(way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killed(WAYS[way])
    assert len(left()) == 1
    with AtomicFolder("old") if "in a folder" in way else AtomicFile("out"):
        assert len(left()) == 1, "only its own"
    assert left() == []


@posix
@pytest.mark.parametrize("kind", NEXT)
def test_every_kind_of_run_removes_it(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    killed(WAYS["a file"])
    with NEXT[kind]():
        pass
    assert left() == []


@posix
def test_a_killed_quantization_does_not_take_the_space_of_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_model.write_model(tmp_path / "in.gguf")
    code = "import quantreg; quantreg.quantize_file('in.gguf', 'out.gguf', 'Q8_0', progress=told)"
    killed(f"def told(event):\n    if type(event).__name__ == 'TensorDone': stop()\n{code}")
    assert len(left()) == 1
    quantreg.quantize_file("in.gguf", "out.gguf", "Q8_0")
    assert sorted(os.listdir()) == ["in.gguf", "out.gguf"]


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_what_has_an_owner_stays(make, tmp_path):
    path, fd = make(tmp_path)
    remove_dead(tmp_path)
    assert path.exists()
    if fd >= 0:
        os.close(fd)


@posix
def test_what_another_process_is_writing_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import sys, quantreg.storage as s; file = s.AtomicFile('out'); file.__enter__(); print('ready', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        remove_dead(tmp_path)
        assert len(left()) == 1
        other.kill()
    remove_dead(tmp_path)
    assert left() == []


def test_what_was_made_on_another_machine_or_by_hand_stays(tmp_path):
    names = [".quantreg-00000000-0123456789abcdef.tmp", ".quantreg-0123456789abcdef.tmp", ".quantreg-mine"]
    for name in names:
        (tmp_path / name).touch()
    remove_dead(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@posix
def test_links_pipes_and_what_belongs_to_others_stay(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("x")
    name = temporary._prefix()
    (tmp_path / f"{name}1.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / f"{name}2.tmp").symlink_to(tmp_path)
    os.mkfifo(tmp_path / f"{name}3.tmp")
    remove_dead(tmp_path)
    assert len(os.listdir(tmp_path)) == 4
    (tmp_path / f"{name}4.tmp").touch()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    remove_dead(tmp_path)
    assert len(os.listdir(tmp_path)) == 5


def test_where_open_files_cannot_move_a_file_is_left_only_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "OPEN_FILES_MOVE", False)
    path, fd = new_file(tmp_path)
    os.close(fd)  # as before the file gets its name
    remove_dead(tmp_path)
    assert path.exists()
    os.utime(path, (time.time() - 100_000,) * 2)
    remove_dead(tmp_path)
    assert not path.exists()


@posix
@pytest.mark.parametrize("make", [new_file, new_folder])
@pytest.mark.parametrize("taken", ["before", "after"])
def test_what_is_removed_before_it_is_locked_is_made_again(make, taken, tmp_path, monkeypatch):
    lock, gone = temporary.lock_file, []

    def slow_lock(fd):
        if not gone:
            gone.extend(tmp_path.iterdir())
            other = os.open(gone[0], os.O_RDONLY)
            lock(other)
            (os.rmdir if gone[0].is_dir() else os.unlink)(gone[0])
            try:
                if taken == "before":
                    lock(fd)
            finally:
                os.close(other)
        lock(fd)

    monkeypatch.setattr(temporary, "lock_file", slow_lock)
    path, fd = make(tmp_path)
    assert path.exists()
    assert path not in gone
    os.close(fd)


def test_on_a_disk_without_locks_files_are_written_and_none_is_removed(tmp_path, monkeypatch):
    def no_lock(fd):
        raise OSError("no locks available")

    monkeypatch.setattr(temporary, "lock_file", no_lock)
    with AtomicFile(tmp_path / "a") as file:
        remove_dead(tmp_path)
        file.write(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_many_runs_in_one_folder_do_not_take_each_others_files(tmp_path):
    def write(number):
        with AtomicFile(tmp_path / str(number)) as file:
            file.write(b"x" * number)

    stop = threading.Event()
    cleaner = threading.Thread(target=lambda: [remove_dead(tmp_path) for _ in iter(stop.is_set, True)])
    cleaner.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(100)))
    finally:
        stop.set()
        cleaner.join()
    assert {int(path.name): path.stat().st_size for path in tmp_path.iterdir()} == {n: n for n in range(100)}
