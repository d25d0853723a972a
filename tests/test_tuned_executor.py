"""Error feedback on an executor, and one pass of the text: the bytes are those of threads, and of two passes."""

import hashlib
import os
import pickle
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import small_models

import quantreg
from quantreg import QuantregError, cli
from quantreg.events import TensorTuned
from quantreg.jobs import tuned, tuned_parts
from quantreg.jobs.tuned_importance import Collected
from quantreg.tuning import encoding, tune
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.statistics import walk

N_CTX = 32
IDS = np.random.default_rng(0).integers(0, 90, 24 * N_CTX).astype(np.int32)
TEXT = {"calibration": IDS, "n_ctx": N_CTX, "chunks": 24}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return small_models.written(tmp_path_factory.mktemp("models"), "llama", "llama-tied", "llama-experts")


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Recorder(Executor):
    """Does the work at once, after a trip through pickle. Fails the first ``lost`` submissions of each item."""

    def __init__(self, lost=0):
        self.items, self.lost, self.failed = [], lost, {}

    def submit(self, function, /, *args):
        item = pickle.dumps((function, args))
        future = Future()
        self.failed[item] = self.failed.get(item, 0) + 1
        if self.failed[item] <= self.lost:
            future.set_exception(ValueError(f"lost result {self.failed[item]}"))
            return future
        self.items.append(item)
        function, args = pickle.loads(item)
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def parts(self):
        return [args for function, args in map(pickle.loads, self.items) if function is tuned_parts.run_part]


# ---- one pass of the text ----


@pytest.mark.parametrize("name", ["llama", "llama-tied", "llama-experts"])
def test_importance_is_the_same_layer_by_layer_and_batch_by_batch(models, at, name):
    with quantreg.load(models / f"{name}.gguf") as model:
        calibration = Calibration.cut(model, IDS, N_CTX)
        by_batch, by_layer = Collected(model), Collected(model)
        assert sum(by_batch.whole_passes(calibration)) == calibration.part("fit").size
        for _ in walk(model, calibration, (), by_layer):
            pass
        by_batch.write(at / "batch.gguf", calibration, ["text"])
        by_layer.write(at / "layer.gguf", calibration, ["text"])
        expected = model.matrices
    assert digest("batch.gguf") == digest("layer.gguf")
    assert set(quantreg.ImportanceMatrix.read("batch.gguf").entries) == set(expected)


def first_the_importance(self):
    """`Tuning.rehearse` with a pass of its own for the importance."""
    yield from self._collect()
    self.rehearsal = self._rehearsal(self._matrix())


@pytest.mark.parametrize("name", ["llama", "llama-tied", "llama-experts"])
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q4_0", "IQ4_NL"])
def test_one_pass_gives_the_bytes_of_a_run_that_collects_the_importance_first(models, at, monkeypatch, name, file_type):
    source = models / f"{name}.gguf"
    real = encoding.joined

    def half(parts):  # the importance decides about ordinary bytes, so the file must have some
        found = real(parts)
        if len(parts[0].plain) % 3:
            return found
        return replace(found, data=np.concatenate([p.plain for p in parts]), kept=False, reason="it is a test")

    monkeypatch.setattr(tune, "joined", half)
    result = quantreg.quantize_file(source, "one.gguf", file_type, datasets=["text"], **TEXT)
    monkeypatch.setattr(tuned.Tuning, "rehearse", first_the_importance)
    two = quantreg.quantize_file(source, "two.gguf", file_type, datasets=["text"], **TEXT)
    assert digest("one.gguf") == digest("two.gguf")
    assert result.tuned == two.tuned
    assert {bool(one.kept) for one in result.tuned} == {True, False}
    assert quantreg.open("one.gguf").metadata["quantize.imatrix.dataset"] == "text"


# ---- an executor ----


def test_processes_give_the_bytes_of_threads(models, at, processes, monkeypatch):
    source = models / "llama-experts.gguf"
    quantreg.quantize_file(source, "threads.gguf", "Q4_K_M", threads=2, **TEXT)
    quantreg.quantize_file(source, "processes.gguf", "Q4_K_M", executor=processes, **TEXT)
    with ThreadPoolExecutor(3) as pool:
        quantreg.quantize_file(source, "pool.gguf", "Q4_K_M", executor=pool, threads=1, **TEXT)
    assert digest("threads.gguf") == digest("processes.gguf") == digest("pool.gguf")
    assert sorted(path.name for path in at.iterdir()) == ["pool.gguf", "processes.gguf", "threads.gguf"]


@pytest.mark.parametrize("ending", [{}, {"prune_layers": [0], "override_kv": {"llama.rope.freq_base": 700.0}}])
def test_rows_go_out_in_parts_that_are_small_and_name_files(models, at, monkeypatch, ending):
    monkeypatch.setattr(encoding, "ROWS", 24)
    recorder = Recorder()
    quantreg.quantize_file(models / "llama.gguf", "out.gguf", "Q4_0", executor=recorder, **TEXT, **ending)
    quantreg.quantize_file(models / "llama.gguf", "threads.gguf", "Q4_0", **TEXT, **ending)
    assert digest("out.gguf") == digest("threads.gguf")
    parts = recorder.parts()
    tensors = {rows.name for rows, _ in parts}
    assert len(parts) > 2 * len(tensors)
    assert max(map(len, recorder.items)) < 2000
    assert {Path(rows.basis.path).exists() for rows, _ in parts} == {False}


def test_parameters_of_the_source_and_of_the_result_reach_the_workers(at):
    small_models.write(small_models.decoder("wide", "llama", width=64, ff=128, layers=1), "wide.gguf")
    for source, file_type in (("wide.gguf", "NVFP4"), ("threads-NVFP4.gguf", "Q4_0")):
        options = {"allow_requantize": True, "pure": True, **TEXT}
        quantreg.quantize_file(source, f"threads-{file_type}.gguf", file_type, **options)
        quantreg.quantize_file(source, f"workers-{file_type}.gguf", file_type, executor=Recorder(), **options)
        assert digest(f"threads-{file_type}.gguf") == digest(f"workers-{file_type}.gguf")


def test_a_part_that_a_cluster_lost_is_computed_once_more(models, at):
    source = models / "llama.gguf"
    quantreg.quantize_file(source, "whole.gguf", "Q4_0", **TEXT)
    quantreg.quantize_file(source, "out.gguf", "Q4_0", executor=Recorder(lost=1), **TEXT)
    assert digest("out.gguf") == digest("whole.gguf")
    with pytest.raises(ValueError, match="lost result 2"):
        quantreg.quantize_file(source, "b.gguf", "Q4_0", executor=Recorder(lost=2), **TEXT)
    assert not Path("b.gguf").exists()


def test_a_worker_that_dies_ends_the_run_clearly_and_it_goes_on_later(models, at):
    source = models / "llama-experts.gguf"
    quantreg.quantize_file(source, "whole.gguf", "Q4_0", **TEXT)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        pids = []

        def kill(event):
            if isinstance(event, TensorTuned) and not pids:
                pids.extend(process.pid for process in list(pool._processes.values()))
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)

        with pytest.raises(QuantregError, match="a worker of the executor died"):
            quantreg.quantize_file(
                source, "out.gguf", "Q4_0", executor=pool, progress=kill, resumable=True, threads=1, **TEXT
            )
    assert not list(Path("out.gguf.tuning").glob("basis*"))
    again = []
    quantreg.quantize_file(source, "out.gguf", "Q4_0", resume=True, progress=again.append, **TEXT)
    assert digest("out.gguf") == digest("whole.gguf")
    assert sum(isinstance(event, TensorTuned) for event in again) < 20


def test_a_worker_with_another_blas_or_cpu_is_refused(models, at, monkeypatch):
    real = tuned_parts.run_part

    def elsewhere(rows, slab):
        part, found = real(rows, slab)
        return part, [*found[:-1], "openblas 0.3.0 Nehalem"]

    class Another(Executor):
        def submit(self, function, /, *args):
            future = Future()
            future.set_result((elsewhere if function is real else function)(*args))
            return future

    with pytest.raises(QuantregError, match=r"openblas 0\.3\.0 Nehalem.*use workers with the same"):
        quantreg.quantize_file(models / "llama.gguf", "out.gguf", "Q4_0", executor=Another(), **TEXT)
    assert list(at.iterdir()) == []


def test_the_command_sends_feedback_to_its_processes(models, at):
    source = models / "llama.gguf"
    Path("ids.txt").write_text(" ".join(map(str, IDS.tolist())))
    quantreg.quantize_file(source, "threads.gguf", "Q4_0", datasets=["ids.txt"], **TEXT)
    text = ["--calibration", "ids.txt", "--ids", "-c", str(N_CTX)]
    assert cli.main(["quantize", *text, "--processes", "2", str(source), "out.gguf", "Q4_0"]) == 0
    assert digest("out.gguf") == digest("threads.gguf")


@pytest.mark.parametrize(
    ("processors", "options", "text", "expected"),
    [
        (4, [], True, [4]),
        (128, [], True, [60]),  # Windows waits for no more than 61
        (3, [], True, []),
        (16, ["--threads", "1"], True, []),
        (16, ["--processes", "2"], True, [2]),
        (16, [], False, []),
    ],
)
def test_the_command_chooses_codes_in_processes_by_itself(models, at, monkeypatch, processors, options, text, expected):
    source, counts = models / "llama.gguf", []

    @contextmanager
    def pool(count):
        counts.append(count)
        with ThreadPoolExecutor(2) as threads:
            yield threads

    monkeypatch.setattr("quantreg.jobs.processes.cpu_count", lambda: processors)
    monkeypatch.setattr("quantreg.jobs.processes.worker_processes", pool)
    Path("ids.txt").write_text(" ".join(map(str, IDS.tolist())))
    about = ["--calibration", "ids.txt", "--ids", "-c", str(N_CTX)] if text else []
    assert cli.main(["quantize", *about, *options, str(source), "out.gguf", "Q4_0"]) == 0
    assert counts == expected


def test_threads_serve_where_the_system_has_no_locks_between_processes(models, at, monkeypatch):
    source = models / "llama.gguf"
    monkeypatch.setattr("quantreg.jobs.processes.cpu_count", lambda: 4)
    for error in (OSError(38, "Function not implemented"), ImportError("no semaphores"), NotImplementedError()):

        def none(*args, error=error, **how):
            raise error

        monkeypatch.setattr("quantreg.jobs.processes.ProcessPoolExecutor", none)
        Path("ids.txt").write_text(" ".join(map(str, IDS.tolist())))
        text = ["--calibration", "ids.txt", "--ids", "-c", str(N_CTX), "--force"]
        assert cli.main(["quantize", *text, str(source), "out.gguf", "Q4_0"]) == 0
        assert quantreg.validate("out.gguf").ok


def test_arrays_that_arrive_unaligned_are_taken(models, at):
    """As they do from a cluster, which sends many of them in one buffer."""

    class Shifting(Recorder):
        def submit(self, function, /, *args):
            return super().submit(partial(unaligned, function), *args)

    source = models / "llama.gguf"
    quantreg.quantize_file(source, "threads.gguf", "Q4_0", **TEXT)
    quantreg.quantize_file(source, "workers.gguf", "Q4_0", executor=Shifting(), **TEXT)
    assert digest("workers.gguf") == digest("threads.gguf")


def unaligned(function, *items):
    return function(*(replace(i, importance=shifted(i.importance)) if hasattr(i, "importance") else i for i in items))


def shifted(array):
    if array is None:
        return None
    raw = np.empty(array.nbytes + 1, np.uint8)
    raw[1:] = array.view(np.uint8)
    return raw[1:].view(np.float32)


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_same_bytes_and_survives_the_loss_of_a_worker(models, at):
    distributed = pytest.importorskip("distributed")
    source = models / "llama-experts.gguf"
    quantreg.quantize_file(source, "whole.gguf", "Q4_0", **TEXT)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())

        def kill(event):
            if isinstance(event, TensorTuned) and pids:
                os.kill(pids.pop(), signal.SIGKILL)
                pids.clear()

        quantreg.quantize_file(
            source, "out.gguf", "Q4_0", executor=client.get_executor(), threads=2, progress=kill, **TEXT
        )
        assert not pids
    assert digest("out.gguf") == digest("whole.gguf")


@pytest.mark.filterwarnings("ignore")
def test_the_processes_of_joblib_give_the_same_bytes(models, at):
    loky = pytest.importorskip("joblib.externals.loky")
    source = models / "llama.gguf"
    quantreg.quantize_file(source, "whole.gguf", "Q4_0", **TEXT)
    quantreg.quantize_file(source, "out.gguf", "Q4_0", executor=loky.get_reusable_executor(2), **TEXT)
    assert digest("out.gguf") == digest("whole.gguf")
