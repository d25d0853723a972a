"""Many threads that use something for the first time, and threads that interrupt each other at any line."""

import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import quality_models
import small_model
from entries import registry_of
from interleaved import at_once, interruptions
from published import write_llama

import quantreg
from quantreg.checkpoints.scratch import Scratch
from quantreg.jobs import slabs
from quantreg.recipes import FileType
from quantreg.recipes.filetype import FileTypes

THREADS = 16
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def fresh(code):
    """Run code in a process that has used nothing yet; return what it printed."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent / 'support')!r})\n"
    done = subprocess.run([sys.executable, "-P", "-c", head + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the first use ----


def test_the_first_use_of_each_codec_from_many_threads_gives_the_same_bytes():
    """The tables of some encoders are built at their first use."""
    fresh(f"""
import numpy as np, quantreg
from interleaved import at_once
x = np.random.default_rng(1).standard_normal((2, 512)).astype(np.float32)
importance = np.linspace(1, 2, 512, dtype=np.float32)
count = 0
for name, qtype in quantreg.types.items():
    floating = name[0] != "I" or name.startswith("IQ")
    rows = x if floating else np.round(x * 9)
    def use():
        given = importance if qtype.requires_importance else None
        data = quantreg.quantize(rows, name, given, threads=1)
        return data.tobytes() + quantreg.dequantize(data, name, threads=1).tobytes()
    found = at_once(*[use] * {THREADS})
    assert set(found) == {{use()}}, name
    count += 1
assert count >= 35, count
""")


@pytest.mark.skipif(not FREE_THREADED, reason="this Python always has the lock")
def test_no_module_of_quantreg_switches_the_lock_of_free_threaded_python_on():
    fresh("""
import quantreg, quantreg_kernels._gguf
assert len([qtype.codec for qtype in quantreg.types.values()]) >= 35
assert not sys._is_gil_enabled()
""")


@pytest.mark.parametrize(
    "use",
    [
        "sorted(quantreg.types)",
        "quantreg.recipes.file_types['Q4_K_M'].type",
        "sorted(quantreg.recipes.file_types)",
        "sorted(quantreg.recipes.catalog.architectures)",
        "quantreg.types['Q4_K'].codec.level",
        "quantreg.quantize.__name__",
    ],
)
def test_the_first_look_up_from_many_threads_finds_what_is_there(use):
    fresh(f"""
from interleaved import at_once
import quantreg
def use():
    import quantreg.recipes.catalog
    return {use}
sys.setswitchinterval(1e-6)
found = at_once(*[use] * {THREADS})
assert all(each == use() for each in found)
""")


# ---- interrupted at any line ----


def test_a_table_of_file_types_is_complete_for_every_thread():
    built_in = [FileType("MY_MIX", 900, "Q4_0", "a mixture")]

    def make():
        table = FileTypes(built_in)
        return (lambda: table["my_mix"].name), (lambda: (table.find(900).name, list(table), len(table)))

    for found in interruptions(make):
        assert found == ("MY_MIX", ("MY_MIX", ["MY_MIX"], 1))


def test_a_type_that_is_replaced_is_there_all_the_time():
    def plugin(distribution, **options):
        new = quantreg.QuantType("X9", type_id=1009, block_size=32, type_size=14, codec=lambda: None)
        hook = quantreg.hookimpl(lambda register: register(new, **options))
        return SimpleNamespace(__name__=distribution, __distribution__=distribution, register_types=hook)

    def make():
        found = registry_of()
        found.register_plugin(plugin("first"))

        def look():
            qtype = found.get("X9")
            return qtype.name, found.get(1009).name, [each.name for each in found.all_types()], bool(found.owner(qtype))

        return (lambda: found.register_plugin(plugin("second", replace=True)).error), look

    for found in interruptions(make):
        assert found == (None, ("X9", "X9", ["X9"], True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("published") / "Small-Llama")


@pytest.mark.parametrize("same_object", [True, False])
def test_a_tensor_of_a_folder_is_made_once_for_all_threads(folder, monkeypatch, same_object):
    """In bytes it differs from what the folder holds, so it is made when it is needed, and kept in a temporary file."""
    name, kept = "blk.0.attn_q.weight", []
    keep = Scratch.keep
    monkeypatch.setattr(Scratch, "keep", lambda *args: kept.append(keep(*args)) or kept[-1])
    with quantreg.open(folder) as model:
        expected = model[name].data.tobytes()

    model = quantreg.open(folder)

    def make():
        nonlocal model
        model.close()
        model = quantreg.open(folder)
        tensor = model[name]
        kept.clear()

        def read(model=model):
            return (tensor if same_object else model[name]).data.tobytes()

        return (lambda: (read(), len(kept))), read

    for (found, times), other in interruptions(make):
        assert found == other == expected
        assert times == 1
    model.close()


def test_a_model_that_is_closed_while_a_tensor_is_made_still_gives_it(folder):
    name = "blk.0.attn_q.weight"
    with quantreg.open(folder) as model:
        expected = model[name].data.tobytes()

    def make():
        model = quantreg.open(folder)
        tensor = model[name]

        def read():
            data = tensor.data.tobytes()
            model.close()
            return data

        return read, model.close

    for found, _ in interruptions(make):
        assert found == expected


def test_a_device_is_opened_once_for_all_threads():
    pytest.importorskip("torch")
    from quantreg.devices import opening

    def make():
        opening._opened.cache_clear()
        return (lambda: quantreg.devices.open_device("torch:cpu")), (lambda: quantreg.devices.open_device("torch:cpu"))

    for mine, other in interruptions(make):
        assert mine is other


# ---- at work ----


def test_an_executor_of_threads_serves_runs_with_different_imatrices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slabs, "SLAB_WEIGHTS", 8_000)
    small_model.write_model(tmp_path / "small.gguf")
    names = [name for name, x in small_model.tensors().items() if x.ndim == 2 and name != "token_embd.weight"]
    runs = range(4)
    for run in runs:
        matrix = {name: small_model.noise(100 + run, (small_model.tensors()[name].shape[1],)) ** 2 for name in names}
        quantreg.ImportanceMatrix(matrix).write(f"{run}.imatrix.gguf")
        quantreg.quantize_file("small.gguf", f"alone{run}.gguf", "Q2_K", f"{run}.imatrix.gguf")

    with ThreadPoolExecutor(THREADS) as pool:

        def quantize(run):
            return lambda: quantreg.quantize_file(
                "small.gguf", f"out{run}.gguf", "Q2_K", f"{run}.imatrix.gguf", executor=pool
            )

        at_once(*map(quantize, runs))
    alone = [Path(f"alone{run}.gguf").read_bytes() for run in runs]
    assert len(set(alone)) == len(runs)
    assert [Path(f"out{run}.gguf").read_bytes() for run in runs] == alone


def test_many_threads_read_one_model(tmp_path, folder):
    small_model.write_model(tmp_path / "small.gguf")
    quantreg.quantize_file(tmp_path / "small.gguf", tmp_path / "m.gguf", "Q4_K_M")
    for path in (tmp_path / "m.gguf", folder):
        with quantreg.open(path) as model:
            expected = {name: model[name].dequantize() for name in model}
        with quantreg.open(path) as model:

            def read(start, model=model, expected=expected):
                names = [*model][start:] + [*model][:start]
                return all(np.array_equal(model[name].dequantize(), expected[name]) for name in names)

            assert all(at_once(*[lambda start=start: read(start) for start in range(THREADS)]))


def test_products_in_many_threads_share_weights():
    rng = np.random.default_rng(5)
    weights = quantreg.QuantizedTensor.from_array("w", rng.standard_normal((64, 256), np.float32), "Q4_K")
    x = rng.standard_normal((16, 256), np.float32)
    expected = [quantreg.matmul(x[:n], weights, threads=1) for n in (1, 16)]

    def multiply(n):
        return [np.array_equal(quantreg.matmul(x[:n], weights, threads=3), expected[n > 1]) for _ in range(20)]

    assert all(map(all, at_once(*[lambda n=n: multiply(n) for n in (1, 16) * (THREADS // 2)])))


def test_one_model_runs_in_many_threads(tmp_path):
    quality_models.write(quality_models.base(), tmp_path / "m.gguf")
    text = quality_models.text()
    with quantreg.load(tmp_path / "m.gguf", threads=2) as model:
        ids = model.tokenize(text)[:20]
        expected = model.logits(ids).tobytes(), model.tokenizer.encode(text)
    with quantreg.load(tmp_path / "m.gguf", threads=2) as model:
        use = lambda: (model.logits(ids).tobytes(), model.tokenizer.encode(text))  # noqa: E731
        assert set(map(repr, at_once(*[use] * THREADS))) == {repr(expected)}
