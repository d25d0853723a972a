"""The same job in other processes: byte-identical, and clear about what goes wrong there."""

import os
import pickle
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import small_model

import quantreg
from quantreg import GGUFFormatError, NonFiniteError, QuantregError
from quantreg.events import Started, TensorDone
from quantreg.jobs import slabs


@pytest.fixture
def at(tmp_path, monkeypatch):
    small_model.write_model(tmp_path / "small.gguf")
    small_model.write_imatrix(tmp_path / "imatrix.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 30_000)
    quantreg.quantize_file("small.gguf", "whole.gguf", "Q4_K_M", "imatrix.gguf")
    return tmp_path


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


class Recorder(Executor):
    """Does the work at once, after a trip through pickle, and keeps what was submitted."""

    def __init__(self):
        self.items = []

    def submit(self, function, /, *args):
        self.items.append(pickle.dumps((function, args)))
        function, args = pickle.loads(self.items[-1])
        future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def test_work_items_are_small_and_name_files_instead_of_holding_arrays(at):
    recorder = Recorder()
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", executor=recorder)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    assert len(recorder.items) > 39
    assert max(map(len, recorder.items)) < 800
    slab = pickle.loads(recorder.items[-1])[1][0]
    assert isinstance(slab, slabs.Slab)
    assert slab.encodings[0].importance.entry == slab.tensor
    assert Path(slab.encodings[0].importance.path) == at / "imatrix.gguf"


def test_processes_give_the_same_bytes(at, processes):
    for i, options in enumerate([{}, {"threads": 1}, {"split_max_tensors": 20}]):
        result = quantreg.quantize_file(
            "small.gguf", f"out{i}.gguf", "Q4_K_M", "imatrix.gguf", executor=processes, **options
        )
        quantreg.merge(result.path, f"merged{i}.gguf")
        assert Path(f"merged{i}.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_threads_of_a_pool_of_ones_own_give_the_same_bytes(at):
    with ThreadPoolExecutor(3) as pool:
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", executor=pool)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_an_imatrix_file_that_changes_during_the_run_is_told(at):
    events = quantreg.quantize_events(
        "small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", executor=Recorder(), threads=1
    )
    next(event for event in events if isinstance(event, TensorDone))
    os.utime("imatrix.gguf", ns=(1, 1))
    with pytest.raises(quantreg.ImportanceError, match="the imatrix has changed since the run began"):
        list(events)
    assert not Path("out.gguf").exists()


def test_an_imatrix_of_ones_own_goes_with_the_items(at, processes):
    own = quantreg.ImportanceMatrix({"blk.0.attn_q.weight": small_model.noise(9, (256,)) ** 2})
    quantreg.quantize_file("small.gguf", "a.gguf", "Q4_K_M", own)
    quantreg.quantize_file("small.gguf", "b.gguf", "Q4_K_M", own, executor=processes)
    assert Path("a.gguf").read_bytes() == Path("b.gguf").read_bytes()


def test_experts_find_their_row_in_other_processes(tmp_path, processes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = small_model.noise(5, (3, 16, 256)).astype(np.float16)
    columns = small_model.noise(6, (3, 256)) ** 2 + np.float32(0.1)
    quantreg.write(
        "moe.gguf", {"general.architecture": "llama", "llama.block_count": 1}, {"blk.0.ffn_up_exps.weight": x}
    )
    info = {"imatrix.datasets": ["t"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 1}
    sums = {"blk.0.ffn_up_exps.weight.in_sum2": columns, "blk.0.ffn_up_exps.weight.counts": np.ones((3, 1), np.float32)}
    quantreg.write("imatrix.gguf", info, sums)
    quantreg.quantize_file("moe.gguf", "out.gguf", "Q4_K_S", "imatrix.gguf", executor=processes)
    with quantreg.open("out.gguf") as model:
        expected = quantreg.quantize(x, "Q4_K", columns)
        np.testing.assert_array_equal(model["blk.0.ffn_up_exps.weight"].data, expected)


def test_errors_of_a_worker_are_those_of_a_thread(at, processes):
    x = np.ones((4, 256), np.float16)
    x[2, 9] = np.inf
    quantreg.write("inf.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    with pytest.raises(NonFiniteError, match=r"blk\.0\.attn_q\.weight: row 2 holds NaN or infinity at column 9"):
        quantreg.quantize_file("inf.gguf", "out.gguf", "Q4_K_M", executor=processes)
    assert not Path("out.gguf").exists()


def test_a_source_that_changes_during_the_run_is_noticed_by_the_workers(at):
    def touch(event):
        if isinstance(event, TensorDone) and event.index == 1:
            slabs._worker._open._files.clear()
            os.utime("small.gguf", ns=(1, 1))

    with pytest.raises(GGUFFormatError) as refused:
        quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", executor=Recorder(), progress=touch)
    assert refused.value.code == "source-changed"


def test_a_worker_that_dies_ends_the_run_clearly_and_it_can_be_resumed(at):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:

        def kill(event):
            if isinstance(event, TensorDone) and event.index == 9:
                for process in list(pool._processes.values()):
                    os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(QuantregError, match="a worker of the executor died"):
            quantreg.quantize_file(
                "small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", executor=pool, progress=kill, resumable=True
            )
    assert not Path("out.gguf").exists()
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", resume=True)
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()


class Forgetful(Recorder):
    """Fails the first ``times`` submissions of each slab, as a cluster does whose worker was lost with its results."""

    def __init__(self, times):
        super().__init__()
        self.times, self.failed = times, {}

    def submit(self, function, /, *args):
        failed = self.failed.get(pickle.dumps(args), 0)
        if failed == self.times:
            return super().submit(function, *args)
        self.failed[pickle.dumps(args)] = failed + 1
        future = Future()
        future.set_exception(ValueError(f"lost result {failed + 1}"))
        return future


def test_a_result_that_a_cluster_lost_is_computed_once_more(at):
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", executor=Forgetful(1))
    assert Path("out.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    with pytest.raises(ValueError, match="lost result 2"):
        quantreg.quantize_file("small.gguf", "b.gguf", "Q4_K_M", "imatrix.gguf", executor=Forgetful(2))


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_same_bytes_and_survives_the_loss_of_a_worker(at):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        quantreg.quantize_file("small.gguf", "a.gguf", "Q4_K_M", "imatrix.gguf", executor=executor, threads=2)
        assert Path("a.gguf").read_bytes() == Path("whole.gguf").read_bytes()
        killed = []

        def kill(event):
            if isinstance(event, Started):
                pids = client.run(os.getpid)
                killed.append(next(iter(pids.values())))
            elif isinstance(event, TensorDone) and event.index == 3:
                os.kill(killed[0], signal.SIGKILL)

        quantreg.quantize_file(
            "small.gguf", "b.gguf", "Q4_K_M", "imatrix.gguf", executor=executor, threads=2, progress=kill
        )
        assert killed
        assert Path("b.gguf").read_bytes() == Path("whole.gguf").read_bytes()


def test_a_worker_that_serves_two_runs_uses_the_imatrix_of_each(at):
    recorder = Recorder()
    quantreg.quantize_file("small.gguf", "out.gguf", "Q4_K_M", "imatrix.gguf", executor=recorder)
    slab = pickle.loads(recorder.items[-1])[1][0]
    right = slabs.Worker(slabs._OpenFiles()).columns(slab.encodings[0], slab.n_cols)
    wrong = slabs.ImportanceMatrix.read("imatrix.gguf")
    wrong.row = lambda *_: np.zeros((1, slab.n_cols), np.float32)
    others = iter([None])

    class Shared(slabs.Worker):
        """A worker to which another thread gives the imatrix of its run whenever it can."""

        @property
        def _imatrix(self):
            return next(others, ("other.gguf", (0, 0), wrong))

        @_imatrix.setter
        def _imatrix(self, new):
            pass

    assert np.array_equal(Shared(slabs._OpenFiles()).columns(slab.encodings[0], slab.n_cols), right)
