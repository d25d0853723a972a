"""The command as a user types it: its output, its exit codes, and one clear line per error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import small_model
from click.testing import CliRunner

import quantreg
from quantreg import cli, hookimpl
from quantreg.registry import registry


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "small.gguf"
    small_model.write_model(path)
    small_model.write_imatrix(path.parent / "imatrix.gguf")
    return path


def test_help_lists_every_command_and_loads_neither_numpy_nor_rich():
    done = subprocess.run(
        [
            sys.executable, "-P", "-c",
            "import sys; from quantreg.cli import main; code = main(['--help']); "
            "print([m for m in ('numpy', 'rich') if m in sys.modules]); sys.exit(code)",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux shows them")
def test_the_command_keeps_numpy_from_starting_threads():
    code = (
        "import os; from quantreg.cli import main; main(['types'])\n"
        "import numpy; print(len(os.listdir('/proc/self/task')))"
    )
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "1", done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name):
    result = CliRunner().invoke(cli.cli, [name, "--help"])
    assert result.exit_code == 0
    words = cli.cli.get_command(None, name).help.split()
    assert " ".join(words) in " ".join(result.output.split()).replace("- ", "-")


def test_version_is_that_of_the_distribution(run):
    assert run("--version") == (0, f"quantreg {quantreg.__version__}\n", "")


def test_quantize_with_llama_quantizes_argument_order(run, model, tmp_path):
    out = tmp_path / "out.gguf"
    code, stdout, stderr = run("quantize", "--imatrix", model.parent / "imatrix.gguf", model, out, "q4_k_m", "2")
    assert code == 0
    assert "bits per weight" in stdout
    assert "[   1/" in stderr
    with quantreg.open(out) as written:
        assert written["blk.0.attn_q.weight"].type_name == "Q4_K"
        assert written.metadata["general.file_type"] == 15
        assert written.metadata["quantize.imatrix.file"] == str(model.parent / "imatrix.gguf")[:127]


def test_the_type_may_be_a_number_and_the_output_left_out(run, tmp_path):
    model = tmp_path / "small.gguf"
    small_model.write_model(model)
    assert run("quantize", model, "15")[0] == 0
    assert (tmp_path / "ggml-model-Q4_K.gguf").exists()  # as llama-quantize calls 15
    assert run("quantize", model, "Q8_0", "1")[0] == 0
    assert (tmp_path / "ggml-model-Q8_0.gguf").exists()


def test_options_reach_the_plan(run, model, tmp_path):
    code, stdout, _ = run(
        "quantize", "--dry-run", "--json", "--leave-output-tensor", "--token-embedding-type", "q8_0",
        "--tensor-type", "ATTN_V=q5_0", "--tensor-type", r"blk\.[12]\.attn_k=f16", model, "Q4_K_M",
    )  # fmt: skip
    assert code == 0
    plan = json.loads(stdout)
    to = {t["name"]: t["to"] for t in plan["tensors"]}
    assert to["output.weight"] == "F16"
    assert to["token_embd.weight"] == "Q8_0"
    assert to["blk.3.attn_v.weight"] == "Q5_0"
    assert to["blk.1.attn_k.weight"] == "F16"
    assert to["blk.0.attn_k.weight"] == "Q4_K"
    assert set(plan) == {"tensors", "bytes", "bits_per_weight", "warnings", "problems"}
    assert set(plan["tensors"][0]) == {"name", "shape", "from", "to", "reason", "bytes"}
    assert plan["bytes"] == sum(t["bytes"] for t in plan["tensors"])


def test_a_dry_run_shows_reasons_and_fallbacks_and_writes_nothing(run, model):
    before = sorted(os.listdir(model.parent))
    code, stdout, _ = run("quantize", "--dry-run", model, "Q4_K_M")
    assert code == 0
    assert "288 is not a multiple of 256" in stdout
    assert "4 tensors fell back to another type" in stdout
    assert sorted(os.listdir(model.parent)) == before


def test_the_plan_is_in_the_order_of_the_written_file(run, model, tmp_path):
    _, stdout, _ = run("quantize", "--dry-run", "--json", model, "Q4_K_M")
    run("quantize", model, tmp_path / "out.gguf", "Q4_K_M")
    with quantreg.open(tmp_path / "out.gguf") as written:
        found = [(name, written[name].type_name, written[name].nbytes, list(written[name].shape)) for name in written]
    assert [(t["name"], t["to"], t["bytes"], t["shape"]) for t in json.loads(stdout)["tensors"]] == found


def test_types_lists_every_type_as_text_and_json(run):
    code, stdout, stderr = run("types", "--params", "7B")
    assert (code, stderr) == (0, "")
    row = next(line.split() for line in stdout.splitlines() if line.startswith("Q4_K "))
    assert row == ["Q4_K", "12", "256", "144", "4.5", "7.11x", "3.94", "GB"]
    listed = json.loads(run("types", "--json")[1])
    assert [t["name"] for t in listed] == list(quantreg.types)
    q6 = next(t for t in listed if t["name"] == "Q6_K")
    assert q6["bits_per_weight"] == 6.5625
    assert q6["plugin"] == "quantreg"


def test_file_types_lists_every_recipe_as_text_and_json(run):
    code, stdout, stderr = run("file-types")
    assert (code, stderr) == (0, "")
    row = next(line.split(maxsplit=5) for line in stdout.splitlines() if line.startswith("Q4_K_M "))
    assert row == ["Q4_K_M", "or", "Q4_K", "15", "Q4_K", "4-bit K-quant mix, medium; the usual choice"]
    assert not any(line != line.rstrip() for line in stdout.splitlines())
    listed = json.loads(run("file-types", "--json")[1])
    assert [f["name"] for f in listed] == list(quantreg.recipes.file_types)
    assert {f["number"] for f in listed} >= {0, 1, 7, 15, 32}


def test_inspect_shows_metadata_tensors_and_sizes(run, model):
    code, stdout, _ = run("inspect", model)
    assert code == 0
    assert "llama.block_count" in stdout
    assert ["blk.0.ffn_down.weight", "F16", "256", "x", "288", "147.46", "kB"] in [
        row.split() for row in stdout.splitlines()
    ]
    data = json.loads(run("inspect", "--json", model)[1])
    assert data["parameters"] == sum(x.size for x in small_model.tensors().values())
    assert data["metadata"]["general.architecture"] == "llama"
    assert {"name": "blk.0.ffn_down.weight", "shape": [256, 288], "type": "F16", "type_id": 1, "bytes": 147456} in data[
        "tensors"
    ]


def test_estimate_gives_the_size_of_a_model_in_a_type(run):
    assert run("estimate", "7B", "--type", "Q4_K") == (0, "3.9375 GB\n", "")
    assert run("estimate", "350M", "--type", "q8_0") == (0, "0.371875 GB\n", "")


def test_plugins_names_the_distribution_of_each_type(run):
    code, stdout, _ = run("plugins")
    assert code == 0
    assert "Q4_K (12)" in stdout
    listed = json.loads(run("plugins", "--json")[1])
    assert {"Q4_K": 12} in [p["types"] for p in listed]
    assert all(p["error"] is None for p in listed)


def test_demo_runs_and_says_what_to_do_next(run):
    code, stdout, _ = run("demo")
    assert code == 0
    rows = {line.split()[0]: line for line in stdout.splitlines() if line.startswith("Q")}
    assert {"Q8_0", "Q4_K_M", "Q2_K"} <= set(rows)
    assert "quantreg quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M" in stdout


def test_a_plugin_adds_a_subcommand(run):
    class Greeter:
        @hookimpl
        def register_commands(self, cli):
            @cli.command("greet")
            def greet():
                """Say hello."""
                click.echo("hello")

    plugin = Greeter()
    registry.register_plugin(plugin)
    try:
        assert run("greet") == (0, "hello\n", "")
        assert "greet" in run("--help")[1]
    finally:
        registry.unregister_plugin(plugin)
        cli.cli.commands.pop("greet")


def nothing(tmp_path):
    return "no-such-file.gguf"


def text_file(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("not a model, only words that are long enough for a header")
    return path


def truncated(tmp_path):
    small_model.write_model(tmp_path / "whole.gguf")
    path = tmp_path / "cut.gguf"
    path.write_bytes((tmp_path / "whole.gguf").read_bytes()[:100_000])
    return path


@pytest.mark.parametrize("make", [nothing, text_file, truncated])
@pytest.mark.parametrize("command", [("inspect",), ("quantize", "--dry-run"), ("quantize",)])
def test_a_bad_file_is_one_clear_line_and_exit_code_1(run, tmp_path, make, command):
    path = make(tmp_path)
    tail = () if command == ("inspect",) else ("Q4_K_M",)
    code, stdout, stderr = run(*command, path, *tail)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("quantreg: error: ")
    assert str(path) in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("MODEL", "Q4_K_X"), 1, "Q4_K"),
        (("MODEL", "OUT", "33"), 1, "removed"),
        (("MODEL",), 2, "expected IN [OUT] TYPE [N]"),
        (("MODEL", "", "Q4_K_M"), 2, "an argument is empty"),
        (("", "OUT", "Q4_K_M"), 2, "an argument is empty"),
        (("MODEL", "OUT", "Q4_K_M", "many"), 2, "not a number of threads"),
        (("--json", "MODEL", "Q4_K_M"), 2, "--dry-run"),
        (("--bogus", "MODEL", "Q4_K_M"), 2, "No such option"),
        (("--tensor-type", "x", "MODEL", "OUT", "Q4_K_M"), 1, "PATTERN=TYPE"),
        (("--tensor-type", "(=q8_0", "MODEL", "OUT", "Q4_K_M"), 1, "regular expression"),
        (("--override-kv", "a=b", "MODEL", "OUT", "Q4_K_M"), 1, "KEY=TYPE:VALUE"),
        (("--output-tensor-type", "q9", "MODEL", "OUT", "Q4_K_M"), 1, "q9"),
        (("--imatrix", "none.dat", "MODEL", "OUT", "Q4_K_M"), 1, "none.dat"),
        (("MODEL", "MODEL", "Q4_K_M", "--force"), 1, "is the input"),
        (("--imatrix", "IMATRIX", "MODEL", "IMATRIX", "Q4_K_M", "--force"), 1, "is the input"),
        (("Q4_K_M", "MODEL"), 2, "expected IN [OUT] TYPE [N], with a type such as Q4_K_M"),
        (("--tensor-type-file", "MODEL", "MODEL", "OUT", "Q4_K_M"), 1, "PATTERN=TYPE"),
        (("MODEL", "no/such/folder/out.gguf", "Q4_K_M"), 1, str(Path("no/such/folder"))),
    ],
)
def test_wrong_usage_gets_a_clear_message(run, model, tmp_path, args, code, message):
    paths = {"MODEL": model, "OUT": tmp_path / "out.gguf", "IMATRIX": model.parent / "imatrix.gguf"}
    words = [paths.get(word, word) for word in args]
    found, _, stderr = run("quantize", *words)
    assert found == code
    assert message in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out.gguf").exists()


@pytest.fixture(scope="session")
def oddly_named(tmp_path_factory):
    """A model whose names would make a terminal clear its screen, begin lines, and write from right to left."""
    path = tmp_path_factory.mktemp("odd") / "odd.gguf"
    ones = np.ones((2, 256), np.float16)
    names = ["blk.0.\x1b[2J.weight", "b\n\r\x9bc.weight", "\u202e" + "x" * 70 + ".weight"]
    quantreg.write(path, {"general.architecture": "llama", "a\x1b[2Jkey": "v"}, dict.fromkeys(names, ones))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "MODEL"), ("hash", "MODEL"), ("validate", "MODEL"), ("quantize", "--dry-run", "MODEL", "Q8_0"),
        ("quantize", "MODEL", "OUT", "Q8_0"), ("plan", "MODEL", "Q8_0", "-o", "OUT"), ("compare", "MODEL", "OTHER"),
        ("coverage", "MODEL", "IMATRIX"), ("evaluate", "--tensors", "Q8_0", "--on", "MODEL"),
        ("quantize", "--tensor-type", "c.weight=IQ2_XS", "MODEL", "OUT", "Q8_0"), ("hash", "--json", "MODEL"),
        ("inspect", "--json", "MODEL"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_names_in_a_file_are_shown_with_escapes_and_cannot_steer_the_terminal(run, model, oddly_named, tmp_path, words):
    files = {"MODEL": oddly_named, "OUT": tmp_path / "out", "OTHER": model, "IMATRIX": model.parent / "imatrix.gguf"}
    _, out, err = run(*[files.get(word, word) for word in words])
    assert "\\x1b[2J" in out + err or "\\x9bc" in out + err or "\\u202e" in out + err
    if "--json" in words:
        assert "\u202e" in json.dumps(json.loads(out), ensure_ascii=False)
    for line in (out + err).split("\n"):
        assert line.isprintable()
        assert not line.startswith("c.weight")


def test_unknown_commands_and_types_get_a_clear_message(run):
    assert run("bogus")[0] == 2
    code, _, stderr = run("estimate", "7B", "--type", "Q4KK")
    assert code == 1
    assert "did you mean Q4_K?" in stderr
    assert run("estimate", "lots", "--type", "Q4_K")[0] == 2
    assert run("types", "--params", "-3B")[0] == 2


def test_nan_in_a_model_exits_with_1_and_leaves_no_file(run, tmp_path):
    x = np.ones((4, 256), np.float16)
    x[1, 7] = np.nan
    quantreg.write(tmp_path / "in.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": x})
    code, _, stderr = run("quantize", tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M")
    assert code == 1
    assert "blk.0.attn_q.weight: row 1 holds NaN or infinity at column 7" in stderr
    assert os.listdir(tmp_path) == ["in.gguf"]


on_posix = pytest.mark.skipif(os.name == "nt", reason="no SIGHUP")


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("SIGTERM", False),
        pytest.param("SIGHUP", False, marks=on_posix),
        pytest.param("SIGHUP", True, marks=on_posix),
    ],
)
def test_a_signal_leaves_no_files_unless_it_is_ignored_as_under_nohup(tmp_path, name, ignored):
    path = tmp_path / "in.gguf"
    small_model.write_model(path)
    code = (
        "import os, signal, sys\n"
        f"if {ignored}: signal.signal(signal.{name}, signal.SIG_IGN)\n"
        "import quantreg\n"
        "from quantreg import cli, events\n"
        "inner = quantreg.quantize_file\n"
        "def slow(*args, progress=None, **options):\n"
        "    def stop(event):\n"
        f"        if isinstance(event, events.TensorDone) and event.index == 3: signal.raise_signal(signal.{name})\n"
        "    return inner(*args, progress=stop, **options)\n"
        "quantreg.quantize_file = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "quantize", str(path), str(tmp_path / "out.gguf"), "Q4_K_M"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (0 if ignored else 130), done.stderr
    assert sorted(os.listdir(tmp_path)) == (["in.gguf", "out.gguf"] if ignored else ["in.gguf"])


def test_merge_takes_the_shards_as_a_glob_gives_them(run, model, tmp_path):
    shards = quantreg.split(model, tmp_path / "m", split_max_tensors=15).paths
    whole = tmp_path / "one.gguf"
    quantreg.merge(shards[0], whole)
    for given in (shards, shards[::-1], shards[1:2]):
        assert run("merge", "--force", *given, tmp_path / "out.gguf") == (0, f"{tmp_path / 'out.gguf'}\n", "")
        assert (tmp_path / "out.gguf").read_bytes() == whole.read_bytes()
    code, _, err = run("merge", *shards)  # without OUT, the last shard is in its place
    assert (code, "is the input" in err) == (1, True)
    code, _, err = run("merge", "--force", *shards, whole, tmp_path / "out.gguf")
    assert (code, f"one.gguf is not one of the {len(shards)} shards of the model of {shards[0]}" in err) == (1, True)
    assert run("merge", whole)[0] == 2
    code, _, err = run("merge", shards[0], tmp_path / "no.gguf", tmp_path / "out.gguf")
    assert (code, "no.gguf: " in err) == (1, True)
