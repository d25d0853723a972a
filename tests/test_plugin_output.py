"""The command around plugins: stdout stays the command's, and what a plugin's own subcommand raises is told."""

import json
import os
import subprocess
import sys

import pytest
import small_model
import toy
from entries import Entry, installed, registry_of

from quantreg import cli

# A distribution in a folder: a package and its metadata, as pip would install them.
NOISY = """
import ctypes, os, sys
import click, numpy as np, quantreg
print("on import")
libc = ctypes.CDLL(None)

def encode(rows):
    print("from encode")
    click.echo("through click")
    libc.puts(b"from C")  # stays in C's buffer until the process ends
    os.write(1, b"to the descriptor\\n")
    return np.zeros((len(rows), rows.shape[1] // 32 * 14), np.uint8)

def decode(blocks):
    sys.stdout.write("from decode\\n")
    return np.zeros((len(blocks), blocks.shape[1] // 14 * 32), np.float32)

NOISY3 = quantreg.QuantType("NOISY3", type_id=4901, block_size=32, type_size=14,
                            codec=lambda: quantreg.PythonCodec(NOISY3, encode, decode))

@quantreg.hookimpl
def register_types(register):
    print("from a hook")
    register(NOISY3)

@quantreg.hookimpl
def register_commands(cli):
    @cli.command("greet")
    @click.argument("how", default="print")
    def greet(how):
        print("hello")
        if how == "child":
            sys.stdout.flush()
            os.system("echo from a child")
        elif how == "exit":
            sys.exit(3)
        elif how == "complain":
            sys.exit("no name")
        elif how == "break":
            raise KeyError("name")
        elif how == "missing":
            open("no such file")
        elif how == "usage":
            raise click.UsageError("wrong")
"""


@pytest.fixture
def noisy(tmp_path):
    """Run the command, as a program, in a folder with such a distribution. Returns (code, stdout, stderr)."""
    site = tmp_path / "site"
    (site / "noisy_dist-1.0.dist-info").mkdir(parents=True)
    (site / "noisy.py").write_text(NOISY)
    info = site / "noisy_dist-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quantreg]\nNOISY3 = noisy\n")
    small_model.write_model(tmp_path / "in.gguf")

    def run(*args, **env):
        env = {**os.environ, "PYTHONPATH": str(site), **env}
        command = [sys.executable, "-P", "-m", "quantreg", *args]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_what_a_plugin_prints_goes_to_stderr_and_json_stays_json(noisy):
    for args in (["types", "--json"], ["plugins", "--json"], ["quantize", "--log-json", "in.gguf", "o.gguf", "NOISY3"]):
        code, out, err = noisy(*args)
        assert code == 0, err
        for document in out.splitlines() if "--log-json" in args else [out]:
            json.loads(document)
        assert "on import\nfrom a hook\n" in err
    for words in ("from encode", "through click", "from C", "to the descriptor"):
        assert words in err
    code, out, err = noisy("quantize", "--dry-run", "--json", "--allow-requantize", "o.gguf", "F16")
    assert code == 0, err
    json.loads(out)
    code, out, err = noisy("validate", "o.gguf")
    assert "from decode" in err
    assert "from decode" not in out


def test_a_plugins_own_subcommand_prints_to_stdout(noisy):
    assert noisy("greet")[1] == "hello\n"
    assert noisy("greet", "child")[1] == "hello\nfrom a child\n"
    assert "Usage: quantreg greet" in noisy("greet", "--help")[1]
    assert noisy("--help")[1].startswith("Usage: quantreg")


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("exit", 3, None),
        ("complain", 1, "command 'greet' of plugin NOISY3 of noisy-dist failed: SystemExit: no name (site/noisy.py:"),
        ("break", 1, "command 'greet' of plugin NOISY3 of noisy-dist failed: KeyError: 'name' (site/noisy.py:"),
        ("missing", 1, "quantreg: error: no such file: No such file or directory"),
        ("usage", 2, "Error: wrong"),
    ],
)
def test_what_a_plugins_own_subcommand_raises_is_told(how, code, message, noisy):
    found, out, err = noisy("greet", how)
    assert found == code
    assert out == "hello\n"
    assert "Traceback" not in err
    if message is not None:
        assert message in err


def test_quantreg_debug_shows_the_traceback_and_is_named_where_it_helps(noisy):
    code, _, err = noisy("greet", "break")
    assert "quantreg: set QUANTREG_DEBUG=1 to see the whole traceback" in err
    code, _, err = noisy("greet", "break", QUANTREG_DEBUG="1")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert 'raise KeyError("name")' in err
    assert "command 'greet' of plugin NOISY3 of noisy-dist failed" in err
    assert "set QUANTREG_DEBUG" not in err
    assert "Traceback" not in noisy("inspect", "missing.gguf", QUANTREG_DEBUG="0")[2]


def test_a_closed_or_full_stdout_is_still_told(noisy, tmp_path):
    command = f"{sys.executable} -P -m quantreg types --json"
    done = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    done = subprocess.run(f"{command} | head -c 1", shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[", "")
    for closed in (">&-", "2>&-"):
        assert subprocess.run(f"{command} {closed}", shell=True, capture_output=True).returncode == 0


def test_a_command_within_a_program_guards_stdout_too_and_gives_it_back(capsys):
    def chatty(rows, importance):
        print("chat")
        return toy.encode(rows, importance)

    before = sys.stdout
    with installed(register_types=lambda register: register(toy.make(encode=chatty))):
        assert cli.main(["plugins", "check", "--quick", "--json", "TOY3"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"]
    assert "chat" in err
    assert sys.stdout is before


def test_a_command_that_uses_a_type_of_two_plugins_says_which_was_taken(monkeypatch, capsys):
    both = registry_of(*(Entry(name, f"{name}-dist", lambda: toy.Plugin(toy.make())) for name in ("first", "second")))
    monkeypatch.setattr("quantreg.registry.registry", both)
    assert cli.main(["types"]) == 0
    assert "note:" not in capsys.readouterr().err
    both.get("TOY3")
    assert cli.main(["types"]) == 0
    said = "note: TOY3 comes from first-dist, which is used instead of TOY3 of second-dist: to choose another, set"
    assert said in capsys.readouterr().err
