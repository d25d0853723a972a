"""The check that a wheel carries: the bytes of every type against known digests, without an oracle."""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from oracles import NO_ORACLE, oracle_encode

import quantreg
import quantreg_kernels
from quantreg import types
from quantreg.testing import __main__ as command
from quantreg.testing import selfcheck
from quantreg_kernels import usable_levels

ROOT = Path(__file__).resolve().parents[1]
KNOWN = json.loads(selfcheck.DIGESTS.read_text(encoding="utf-8"))
LIVE = [name for name in KNOWN if types[name].block_size > 1 and name not in NO_ORACLE]


def digest(data):
    return hashlib.sha256(data.tobytes()).hexdigest()[:16]


def test_every_built_in_type_has_digests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(KNOWN) == {name for name in project["entry-points"]["quantreg"] if name.isupper()}
    assert all({"any", "decoded"} <= set(entry) for entry in KNOWN.values())


@pytest.mark.parametrize("name", LIVE)
def test_the_digests_are_of_the_references_bytes(name):
    x, importance = selfcheck.sample_rows()
    for what, columns in (("plain", None), ("weighted", importance)):
        if what in KNOWN[name]:
            assert digest(oracle_encode(name, x, columns)) == KNOWN[name][what]


def test_the_sample_has_every_kind_of_row():
    x, importance = selfcheck.sample_rows()
    assert x.dtype == importance.dtype == np.float32
    assert np.isfinite(x).all()
    assert (importance > 0).all()
    assert not x[-1].any()
    assert 0 < np.abs(x[-2]).max() < np.finfo(np.float32).tiny
    assert 0.8 < (x[-4] == 0).mean() < 1
    sizes = np.abs(x[:14]).max(axis=1)
    assert sizes.max() > 30 * sizes.min()


def test_this_installation_passes(monkeypatch, capsys):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    assert command.main() == 0
    compared = len(usable_levels()) * sum(map(len, KNOWN.values()))
    said = capsys.readouterr().out
    assert f"CPU levels {', '.join(usable_levels())}: {compared} digests compared, 0 wrong\n" in said
    assert said.startswith(f"quantreg {quantreg.__version__}, ")


def test_one_wrong_bit_is_found(monkeypatch, capsys):
    codec = types["Q4_K"]._load_codec()

    class Wrong:
        can_encode, has_scorer = codec.can_encode, codec.has_scorer
        decode_rows = staticmethod(codec.decode_rows)

        def encode_rows(self, x, out, importance=None):
            codec.encode_rows(x, out, importance)
            out[3, 17] ^= 1

    monkeypatch.setenv("QUANTREG_CPU", codec.level)
    monkeypatch.setattr(type(types["Q4_K"]), "_load_codec", lambda qtype: Wrong() if qtype.name == "Q4_K" else codec)
    monkeypatch.setattr(selfcheck, "types", {"Q4_K": types["Q4_K"]})
    _, wrong = selfcheck.find_differences()
    mine = [line for line in wrong if line.startswith("Q4_K")]
    touched = [f"Q4_K at {codec.level}: {what}" for what in KNOWN["Q4_K"] if what != "any"]
    assert [line.split(" has ")[0] for line in mine] == touched
    assert command.main() == 1
    assert "wrong" in capsys.readouterr().out


def test_a_type_that_is_missing_is_told(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "base")
    monkeypatch.setattr(selfcheck, "types", {name: types[name] for name in KNOWN if name != "Q6_K"})
    _, wrong = selfcheck.find_differences()
    assert len(wrong) == 1
    assert wrong[0].startswith("Q6_K at base: ")


def test_a_level_that_was_not_built_is_told(monkeypatch):
    """A build for one level only, on a machine that can do more."""
    find = quantreg_kernels.util.find_spec
    monkeypatch.setenv("QUANTREG_CPU", "base")
    monkeypatch.setattr(
        quantreg_kernels.util, "find_spec", lambda name: None if name.endswith("._q6_k_base") else find(name)
    )
    _, wrong = selfcheck.find_differences()
    assert len(wrong) == 1
    assert wrong[0].startswith("Q6_K at base: ")
    assert "was not built for the CPU level base" in wrong[0]


def test_it_runs_as_a_program():
    command = [sys.executable, "-P", "-m", "quantreg.testing"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" 0 wrong\n")
