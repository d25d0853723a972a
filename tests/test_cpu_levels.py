"""Which CPU level a codec is loaded for."""

import ast
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import quantreg_kernels
from quantreg_kernels import load_codec, usable_levels
from quantreg_kernels._cpu import level_features, machine_levels, missing_features

ROOT = Path(__file__).resolve().parents[1]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels above base are for x86-64")


def test_levels_are_slowest_first_and_begin_with_base(monkeypatch):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    assert usable_levels() == machine_levels() == quantreg_kernels.LEVELS[: len(machine_levels())]
    monkeypatch.setenv("QUANTREG_CPU", "")
    assert usable_levels() == machine_levels()


@pytest.mark.parametrize("level", machine_levels())
def test_a_forced_level_is_the_one_loaded(monkeypatch, level):
    monkeypatch.setenv("QUANTREG_CPU", level)
    assert usable_levels() == (level,)
    assert load_codec("quantreg_lowbit.q1_0", "_q1_0").level == level


def test_the_fastest_level_is_loaded_by_default(monkeypatch):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    codec = load_codec("quantreg_lowbit.q1_0", "_q1_0")
    assert codec.level == [level for level in machine_levels() if level in codec.built][-1]


def test_an_unknown_level_is_refused(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "sse9")
    with pytest.raises(ValueError, match="QUANTREG_CPU=sse9: unknown CPU level, use one of base, avx2, avx512"):
        load_codec("quantreg_lowbit.q1_0", "_q1_0")


def test_a_level_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "avx512")
    monkeypatch.setattr("quantreg_kernels._cpu.machine_levels", lambda: ("base", "avx2"))
    with pytest.raises(ValueError, match="QUANTREG_CPU=avx512: this machine only has base, avx2"):
        usable_levels()


def test_a_codec_that_was_not_built_is_reported(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "base")
    with pytest.raises(ImportError, match=r"quantreg_lowbit\._q9_0 was not built for the CPU level base: reinstall"):
        load_codec("quantreg_lowbit.q9_0", "_q9_0")


# ---- a level is only run where the machine has everything that the compiler may use at it ----


def flags_of(level):
    """The compiler flags of a level, from the build file that all codecs share."""
    text = (ROOT / "plugins" / "floats" / "meson.build").read_text()
    return ast.literal_eval(re.search(rf"'{level}': (\[.*?\])", text)[1])


def predefined(compiler, flags):
    """The compiler's predefined macros."""
    command = [compiler, *flags, "-dM", "-E", "-x", "c", "-"]
    listing = subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in listing.splitlines()}


def feature_of(macro):
    """The feature that a macro stands for, or None if it stands for no instruction."""
    if macro.startswith(("__FP_FAST_FMA", "__EVEX")):  # follow from FMA and AVX-512
        return None
    if macro == "__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16":
        return "cx16"
    return macro.strip("_").lower()


@on_x86_64
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_every_feature_that_a_level_may_use_is_checked(level, compiler):
    macros = predefined(compiler, flags_of(level)) - predefined(compiler, [])
    used = {feature_of(macro) for macro in macros} - {None}
    assert {"avx2", "f16c", "lzcnt", "movbe"} <= used
    checked = set(level_features("avx2")) | (set(level_features("avx512")) if level == "avx512" else set())
    assert used == checked - {"saved-registers"}


@on_x86_64
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists the features of its processor")
def test_features_are_those_that_the_system_lists():
    flags = set(re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    other = {"sse3": "pni", "lzcnt": "abm", "bmi": "bmi1", "lahf_sahf": "lahf_lm", "crc32": "sse4_2"}
    other |= {"avx512vnni": "avx512_vnni", "saved-registers": "avx"}
    for level in ("avx2", "avx512"):
        for name, found in level_features(level).items():
            assert found == (other.get(name, name) in flags), name


def test_a_level_is_usable_if_nothing_is_missing():
    assert missing_features("base") == ()
    for level in ("avx2", "avx512"):
        assert (level in machine_levels()) == (not missing_features(level))
        assert set(missing_features(level)) <= set(level_features("avx2")) | set(level_features("avx512"))
