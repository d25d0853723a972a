"""A codec in NumPy on all processors, by processes: the bytes of one process, or an error that says what to do."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import numpy as np
import pytest
import small_model
import toy
from entries import installed, registered

import quantreg
from quantreg import CodecError, NonFiniteError, QuantregError, UnknownTypeError, dispatch
from quantreg.jobs import slabs
from quantreg.jobs.processes import worker_processes
from quantreg.registry import registry

SUPPORT = Path(__file__).parent / "support"
X = small_model.noise(3, (3, 40, 256))
COLUMNS = small_model.noise(4, (3, 256)) ** 2 + np.float32(0.1)

# A distribution, as pip would install it. Processes that start afresh find it by its entry point.
MODULE = """
import quantreg, toy

PROC3 = toy.make(name="PROC3", type_id=4903)

@quantreg.hookimpl
def register_types(register):
    register(PROC3)
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    assert registry.plugins  # this process has looked for entry points before the distribution is there
    info = folder / "proc_dist-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "proc_plugin.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: proc-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantreg]\nPROC3 = proc_plugin\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dispatch, "SLAB_WEIGHTS", 3000)
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 3000)
    return folder


@pytest.fixture
def plugin(site):
    """The plugin, in this process, too."""
    sys.modules.pop("proc_plugin", None)
    import proc_plugin

    with registered(proc_plugin):
        yield proc_plugin


def pool(method):
    if method not in get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    return ProcessPoolExecutor(2, mp_context=get_context(method))


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_processes_encode_with_an_installed_numpy_codec(plugin, method):
    small_model.write_model("in.gguf")
    small_model.write_imatrix("imatrix.gguf")
    quantreg.quantize_file("in.gguf", "one.gguf", "PROC3", "imatrix.gguf", threads=1)
    with pool(method) as executor:
        quantreg.quantize_file("in.gguf", "two.gguf", "PROC3", "imatrix.gguf", executor=executor)
        assert Path("one.gguf").read_bytes() == Path("two.gguf").read_bytes()
        for importance in (None, COLUMNS[0], COLUMNS, X**2):
            expected = quantreg.quantize(X, "PROC3", importance, threads=1)
            np.testing.assert_array_equal(quantreg.quantize(X, "PROC3", importance, executor=executor), expected)
        x = X.copy()
        x[1, 7, 9] = np.nan
        with pytest.raises(NonFiniteError, match="t: row 47 holds NaN or infinity at column 9"):
            quantreg.quantize(x, "PROC3", executor=executor, tensor="t")


def test_compiled_codecs_may_run_in_processes_too():
    with worker_processes(2) as executor:
        for name in ("Q4_K", "NVFP4"):
            parameters = quantreg.fit(X, name) if name == "NVFP4" else None
            expected = quantreg.quantize(X, name, COLUMNS, parameters=parameters)
            found = quantreg.quantize(X, name, COLUMNS, parameters=parameters, executor=executor)
            np.testing.assert_array_equal(found, expected)


def test_a_type_that_is_registered_by_hand_is_known_after_a_fork(site):
    small_model.write_model("in.gguf")
    with installed(register_types=lambda register: register(toy.make())), pool("fork") as executor:
        np.testing.assert_array_equal(quantreg.quantize(X, "TOY3", executor=executor), quantreg.quantize(X, "TOY3"))
        quantreg.quantize_file("in.gguf", "two.gguf", "TOY3", executor=executor)
        quantreg.quantize_file("in.gguf", "one.gguf", "TOY3")
    assert Path("one.gguf").read_bytes() == Path("two.gguf").read_bytes()


def test_a_type_that_is_registered_by_hand_is_missed_clearly_in_processes_that_start_afresh(site):
    small_model.write_model("in.gguf")
    message = "in a worker process: unknown quant type 'TOY3'.* install its plugin, or register it in each worker with"
    with installed(register_types=lambda register: register(toy.make())), pool("spawn") as executor:
        with pytest.raises(UnknownTypeError, match=message):
            quantreg.quantize(X, "TOY3", executor=executor)
        with pytest.raises(UnknownTypeError, match=message):
            quantreg.quantize_file("in.gguf", "two.gguf", "TOY3", executor=executor)
    assert not Path("two.gguf").exists()


def test_a_type_may_be_registered_by_the_initializer_of_the_pool():
    context = get_context("spawn")
    with (
        installed(register_types=lambda register: register(toy.make())),
        ProcessPoolExecutor(1, mp_context=context, initializer=toy.register_by_hand) as executor,
    ):
        np.testing.assert_array_equal(quantreg.quantize(X, "TOY3", executor=executor), quantreg.quantize(X, "TOY3"))


def test_another_type_of_the_same_name_in_a_worker_is_refused(site):
    other = toy.make(name="PROC3", type_id=4903, type_size=15)
    with (
        installed(register_types=lambda register: register(other)),
        pool("spawn") as executor,
        pytest.raises(CodecError, match="a worker of the executor knows another type PROC3: install the same plugins"),
    ):
        quantreg.quantize(X, "PROC3", executor=executor)


def test_a_worker_that_dies_is_told_for_arrays_too(plugin):
    def die(rows, importance):
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        installed(register_types=lambda register: register(toy.make(encode=die))),
        pool("fork") as executor,
        pytest.raises(QuantregError, match="a worker of the executor died"),
    ):
        quantreg.quantize(X, "TOY3", executor=executor)


def test_the_command_encodes_in_processes(site, tmp_path):
    small_model.write_model("in.gguf")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(SUPPORT)])}

    def run(*args):
        command = [sys.executable, "-P", "-m", "quantreg", "quantize", *args]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    for out, options in (("one.gguf", []), ("two.gguf", ["--processes", "2"])):
        done = run(*options, "in.gguf", out, "PROC3")
        assert done.returncode == 0, done.stderr
    assert Path("one.gguf").read_bytes() == Path("two.gguf").read_bytes()
    refused = run("--processes", "2", "--threads", "2", "in.gguf", "three.gguf", "PROC3")
    assert refused.returncode == 2
    assert "give either --processes or a number of threads" in refused.stderr


ORPHANS = """
import os, time
from quantreg.jobs.processes import worker_processes

if __name__ == "__main__":
    with worker_processes(2) as pool:
        list(pool.map(time.sleep, [0.2] * 2))
        print(*pool._processes, flush=True)
        time.sleep(60)
"""


def test_the_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, "-P", tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 30
    while any(_runs(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in workers)


def _runs(pid):
    if os.name == "nt":
        kernel = ctypes.WinDLL("kernel32")
        process = kernel.OpenProcess(0x100000, 0, pid)  # SYNCHRONIZE
        try:
            return process != 0 and kernel.WaitForSingleObject(process, 0) == 0x102  # WAIT_TIMEOUT: it has not ended
        finally:
            kernel.CloseHandle(process)
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
