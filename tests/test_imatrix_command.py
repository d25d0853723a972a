"""quantreg imatrix: what it prints, what it reads, and one clear line for bad input."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imatrix_models
import pytest

import quantreg
from quantreg import ImportanceMatrix
from quantreg.quality import chunks

GOLDEN = Path(__file__).parent / "golden" / "imatrix"
N_CTX = imatrix_models.N_CTX


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    imatrix_models.write("llama", folder / "m.gguf")
    imatrix_models.write("llama-experts", folder / "experts.gguf")
    return folder


@pytest.fixture
def command(run, models, tmp_path, monkeypatch):
    """Run `quantreg imatrix` in a folder of its own, with the model m.gguf: exit code, stdout, stderr."""
    (tmp_path / "m.gguf").hardlink_to(models / "m.gguf")
    (tmp_path / "text.txt").write_text(imatrix_models.text(), encoding="utf-8", newline="")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "BATCH", 2 * N_CTX)
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    }
    yield lambda *args: run("imatrix", *args)
    for number, handler in before.items():
        signal.signal(number, handler)


TEXT = ("m.gguf", "-f", "text.txt", "-c", N_CTX)


# ---- collecting ----


def test_it_prints_the_perplexity_as_it_goes_and_writes_the_file(command):
    code, out, err = command(*TEXT)
    expected = quantreg.perplexity("m.gguf", imatrix_models.text().removesuffix("\n"), n_ctx=N_CTX)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "".join(f"[{i}]{value:.4f}," for i, value in enumerate(expected.running, 1)),
        f"Final estimate: PPL = {expected.perplexity:.4f} +/- {expected.perplexity_error:.5f}",
        f"imatrix.gguf: 14 entries, 9 chunks of {N_CTX}",
    ]
    golden = ImportanceMatrix.read(GOLDEN / "plain.gguf")
    found = ImportanceMatrix.read("imatrix.gguf")
    assert list(found) == list(golden)
    assert found.datasets == ("text.txt",)


def test_the_options_have_llama_imatrix_names(command):
    code, out, err = command(
        "-m", "m.gguf", "--file", "text.txt", "--ctx-size", N_CTX, "--chunk", 3, "--chunks", 4, "--no-ppl",
        "--process-output", "--parse-special", "-ofreq", 2, "--save-frequency", 2, "--output-format", "dat",
        "--output-file", "i.dat", "--in-file", GOLDEN / "plain.gguf", "--threads", 1,
    )  # fmt: skip
    assert (code, err, out) == (0, "", f"i.dat: 15 entries, 13 chunks of {N_CTX}\n")
    assert sorted(path.name for path in Path().glob("i.*")) == ["i.dat", "i.dat.at_11", "i.dat.at_13"]
    found = ImportanceMatrix.read("i.dat")
    assert found.counts("blk.0.attn_q.weight") == (13,)
    assert found.counts("output.weight") == (4,)


def test_ids_need_no_text(command, models):
    with quantreg.load(models / "m.gguf") as model:
        ids = model.tokenize(imatrix_models.text().removesuffix("\n"))
    Path("ids.txt").write_text(str(ids), encoding="utf-8")
    assert command("m.gguf", "--ids", "ids.txt", "-c", N_CTX, "--no-ppl", "--chunks", -1)[0] == 0
    found, golden = ImportanceMatrix.read("imatrix.gguf"), ImportanceMatrix.read(GOLDEN / "plain.gguf")
    assert all(abs(found[name] / golden[name] - 1).max() < 1e-4 for name in golden)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_a_run_that_is_ended_says_how_to_go_on_and_goes_on(command, tmp_path):
    Path("long.txt").write_text(imatrix_models.text() * 300, encoding="utf-8", newline="")
    words = ["imatrix", "m.gguf", "-f", "long.txt", "-c", "32", "-t", "1", "--output-frequency", "1", "--no-ppl"]
    running = subprocess.Popen([sys.executable, "-P", "-m", "quantreg", *words], stderr=subprocess.PIPE, text=True)
    while not Path("imatrix.gguf").exists() and running.poll() is None:
        time.sleep(0.02)
    running.terminate()
    err = running.communicate()[1]
    kept = ImportanceMatrix.read("imatrix.gguf")
    assert running.returncode == 130
    assert f"{kept.chunk_count} chunks of the text are kept in imatrix.gguf: run the same command to go on" in err
    total = kept.chunk_count + 64
    code, out, err = command(*words[1:], "--chunks", total)
    assert code == 0
    assert f"note: imatrix.gguf holds {kept.chunk_count} of {total} chunks of this run, which goes on from there" in err
    assert out == f"imatrix.gguf: 14 entries, {total} chunks of 32\n"


# ---- without a model ----


def test_it_adds_up_files(command):
    code, out, err = command("--in-file", GOLDEN / "plain.gguf", "--in-file", GOLDEN / "output.gguf", "-o", "two.gguf")
    assert (code, out, err) == (0, f"two.gguf: 15 entries, 18 chunks of {N_CTX}\n", "")


def test_it_converts_a_file_and_says_if_the_name_belies_the_format(command):
    code, out, err = command("--in-file", GOLDEN / "experts.gguf", "--output-format", "dat")
    assert (code, out, err) == (0, f"imatrix.dat: 16 entries, 9 chunks of {N_CTX}\n", "")
    code, _, err = command("--in-file", "imatrix.dat", "-o", "i.dat")
    assert code == 0
    assert err == (
        "warning: i.dat will be a GGUF file, whatever its name says: --output-format dat gives the legacy format\n"
    )


def test_statistics_are_the_lines_of_llama_imatrix(command):
    code, out, err = command("--show-statistics", "--in-file", GOLDEN / "experts.gguf")
    golden = (GOLDEN / "statistics.txt").read_text(encoding="utf-8").splitlines()
    assert (code, err) == (0, "")
    mine, theirs = ([line.rstrip() for line in text if line.strip()] for text in (out.splitlines(), golden))
    start = next(i for i, line in enumerate(theirs) if line.startswith("Computing statistics"))
    assert mine[0] == f"Computing statistics for {GOLDEN / 'experts.gguf'} (16 tensors)"
    assert mine[1:] == theirs[start + 1 :]


# ---- bad input ----


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "There is no text"),
        (("m.gguf",), "There is no text"),
        (("-f", "text.txt"), "Missing argument 'MODEL'"),
        (("m.gguf", "-m", "n.gguf", "-f", "text.txt"), "Two models"),
        (("m.gguf", "-f", "text.txt", "--ids", "ids.txt"), "cannot be used together"),
        (("--show-statistics",), "needs one imatrix"),
        (("m.gguf", "-f", "text.txt", "-c", "0"), "at least 1 token"),
    ],
)
def test_wrong_usage_is_explained(args, message, command):
    code, out, err = command(*args)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*TEXT, "-o", "text.txt", "--force"), "text.txt: is the input: choose another name"),
        ((*TEXT, "-o", "m.gguf", "--force"), "m.gguf: is the input: choose another name"),
        ((*TEXT, "-o", "nowhere/i.gguf"), "create its folder first"),
        (
            (*TEXT, "-o", "old.gguf"),
            "old.gguf: exists, with the sums of 9 chunks: choose another name, replace it with",
        ),
        (("m.gguf", "-f", "text.txt"), "the text has"),
        ((*TEXT, "--in-file", "m.gguf"), "not an importance matrix"),
        ((*TEXT, "--in-file", GOLDEN / "minilm-imatrix.gguf"), "combine matrices of the same model"),
        (("--in-file", "old.gguf", "-o", "old.gguf", "--force"), "is the input"),
        (("--in-file", "old.gguf", "--in-file", "text.txt"), "text.txt"),
        (("--in-file", "empty", "--show-statistics"), "empty"),
        (("m.gguf", "-f", "missing.txt"), "missing.txt: "),
    ],
)
def test_bad_input_is_one_line(args, message, command, monkeypatch):
    Path("old.gguf").write_bytes((GOLDEN / "plain.gguf").read_bytes())
    Path("empty").write_bytes(b"")
    before = {path: path.read_bytes() for path in Path().iterdir()}

    def states(self, *args, **options):
        raise AssertionError("this is the long work")

    monkeypatch.setattr(quantreg.Model, "states", states)
    code, out, err = command(*args)
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_help_loads_no_numpy():
    code = "import sys; from quantreg.cli import main; main(['imatrix', '--help']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.DEVNULL).returncode == 0
