"""Each rule of the container refuses its bad files in the reader, on the command line and in a run, at little cost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gguf_files as gf
import pytest
import refusals
from bad_files import BAD_FILES

import quantreg
from quantreg import GGUFFormatError, cli

DOCS = Path(__file__).parent.parent / "docs" / "bad-input.md"


@pytest.mark.parametrize("way", refusals.WAYS)
@pytest.mark.parametrize("bad", BAD_FILES, ids=str)
def test_a_bad_file_is_refused_in_one_line_with_its_code(bad, way, tmp_path):
    code, message = refusals.WAYS[way](bad.write(tmp_path), tmp_path)
    assert code == bad.code
    assert len(message.strip().splitlines()) == 1


def test_every_rule_has_files():
    warnings_only = {20}
    assert {bad.number for bad in BAD_FILES} == set(range(1, 24)) - warnings_only


def test_the_page_on_bad_input_counts_them():
    assert f"| {len(BAD_FILES)}, three ways | 0 |" in DOCS.read_text()


def test_the_page_on_bad_input_lists_every_code():
    rows = re.findall(r"^\| (\d+) \| .*? \| (.*?) \|$", DOCS.read_text(), re.MULTILINE)
    listed = {(int(number), code) for number, codes in rows for code in re.findall(r"`([a-z0-9-]+)`", codes)}
    assert listed == {(bad.number, bad.code) for bad in BAD_FILES}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_no_refusal_takes_more_than_5_mb_beyond_start_up():
    script = Path(refusals.__file__)
    done = subprocess.run([sys.executable, script, "--json"], capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(BAD_FILES), done.stderr
    for row in rows:
        assert all(row[way][1] <= refusals.MOST_KIB for way in refusals.WAYS), row


# Files that are read with a warning


ODD = {
    "a long tensor name": (gf.gguf([], [gf.tensor("a" * 64, (1,))], bytes(32)), "llama.cpp refuses 64 and more"),
    "trailing bytes": (gf.gguf([], [gf.tensor("a", (1,))], bytes(35)), "3 bytes after the last tensor"),
}


@pytest.mark.parametrize(("data", "warning"), ODD.values(), ids=ODD)
def test_what_is_odd_but_readable_is_a_warning_everywhere(data, warning, tmp_path, capsys):
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)
    with quantreg.open(path) as model:
        assert warning in "".join(model.warnings)
    assert warning in "".join(quantreg.quantize_file(path, tmp_path / "out.gguf", "Q8_0").warnings)
    for words in (["inspect", path], ["quantize", path, tmp_path / "out2.gguf", "Q8_0"]):
        assert cli.main(list(map(str, words))) == 0
        assert warning in "".join(capsys.readouterr())


def test_a_tensor_of_an_unknown_type_is_listed_and_copied_but_not_decoded(tmp_path, capsys):
    path = tmp_path / "new.gguf"
    path.write_bytes(gf.gguf([], [gf.tensor("a", (5,), 999)], bytes(range(32))))
    with quantreg.open(path) as model:
        assert model["a"].data.tobytes() == bytes(range(32))
        with pytest.raises(quantreg.UnknownTypeError):
            model["a"].dequantize()
    assert cli.main(["inspect", str(path)]) == 0
    assert "type 999" in capsys.readouterr().out
    quantreg.merge(path, tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == path.read_bytes()


def test_a_file_that_shrinks_while_it_is_open_is_noticed_at_the_next_tensor(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gf.small_model())
    with quantreg.open(path) as model:
        assert model["b.weight"].nbytes == 34
        os.truncate(path, path.stat().st_size - 40)
        assert model["a.weight"].nbytes == 24
        with pytest.raises(GGUFFormatError) as refused:
            model["b.weight"]
    assert refused.value.code == "tensor-past-end"
    assert refused.value.path == str(path)
