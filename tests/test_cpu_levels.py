"""Which CPU level a codec is loaded for."""

import ast
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from oracles import NATIVE, codec_at, row_codec_at
from row_codec import as_capsule
from weights import make_rows

import quantreg
import quantreg_kernels
from quantreg import types
from quantreg_kernels import _cpu, load_codec, usable_levels
from quantreg_kernels._cpu import level_features, machine_levels, missing_features
from quantreg_kernels._run import Codec

ROOT = Path(__file__).resolve().parents[1]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="avx2 and avx512 are for x86-64")

LEVELS = quantreg_kernels.LEVELS
FASTER_AT = {"plain": "avx2", "weighted": "base", "decode": "base"}


def test_levels_are_slowest_first_and_begin_with_base(monkeypatch):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    assert usable_levels() == machine_levels() == tuple(level for level in LEVELS if level in machine_levels())
    assert machine_levels()[0] == "base"
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
    with pytest.raises(ValueError, match="QUANTREG_CPU=sse9: unknown CPU level, use one of base, avx2, avx512, neon"):
        load_codec("quantreg_lowbit.q1_0", "_q1_0")


@on_x86_64
def test_a_level_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("QUANTREG_CPU", "avx512")
    monkeypatch.setattr("quantreg_kernels._cpu.machine_levels", lambda: ("base", "avx2"))
    with pytest.raises(ValueError, match="QUANTREG_CPU=avx512: this machine runs base, avx2 and lacks"):
        usable_levels()


@pytest.mark.parametrize(("processor", "others"), [("x86-64", ["neon"]), ("arm64", ["avx2", "avx512"])])
def test_a_level_of_another_processor_is_refused_and_the_processor_named(monkeypatch, processor, others):
    if _cpu.processor != processor:
        pytest.skip(f"this processor is not {processor}")
    lacks = {"x86-64": "an arm64 processor", "arm64": "an x86-64 processor"}[processor]
    for level in others:
        monkeypatch.setenv("QUANTREG_CPU", level)
        said = f"QUANTREG_CPU={level}: this machine runs base.* and lacks {lacks} for {level}"
        with pytest.raises(ValueError, match=said):
            usable_levels()


@pytest.mark.skipif(_cpu.processor != "arm64", reason="neon is for arm64")
def test_every_arm64_processor_runs_neon():
    assert machine_levels() == ("base", "neon")
    assert missing_features("neon") == ()


def lowered(codec):
    """Work -> the level that does it, where that is not the codec's own."""
    return {work: other.level for work, other in codec.lower.items()}


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (("base",), {}),
        (("base", "avx2"), {"weighted": "base", "decode": "base"}),
        (("base", "avx2", "avx512"), FASTER_AT),
    ],
)
def test_a_lower_level_does_the_work_it_is_faster_at(monkeypatch, levels, expected):
    if levels[-1] not in NATIVE:
        pytest.skip(f"this machine lacks {levels[-1]}")
    monkeypatch.setattr(quantreg_kernels, "usable_levels", lambda: levels)
    codec = load_codec("quantreg_legacy.q4_1", "_q4_1", faster_at=FASTER_AT)
    assert codec.level == levels[-1]
    assert lowered(codec) == expected


@pytest.mark.parametrize("level", machine_levels())
def test_a_level_that_was_asked_for_does_all_the_work(monkeypatch, level):
    assert lowered(load_codec("quantreg_legacy.q4_1", "_q4_1", level, faster_at=FASTER_AT)) == {}
    monkeypatch.setenv("QUANTREG_CPU", level)
    assert lowered(load_codec("quantreg_legacy.q4_1", "_q4_1", faster_at=FASTER_AT)) == {}


def test_a_lower_level_that_was_not_built_is_not_taken(monkeypatch):
    find = quantreg_kernels.util.find_spec
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    monkeypatch.setattr(quantreg_kernels.util, "find_spec", lambda name: None if name.endswith("_base") else find(name))
    codec = load_codec("quantreg_legacy.q4_1", "_q4_1", faster_at={"plain": "base", "decode": "base"})
    assert lowered(codec) == {}
    assert codec.level == machine_levels()[-1]


@pytest.mark.parametrize("work", quantreg_kernels.WORKS)
def test_the_lower_level_is_the_one_that_runs(work):
    """The codec of another type, whose blocks are shorter, stands in for the lower level."""
    capsule = as_capsule(row_codec_at("Q4_1", "base"))
    codec = Codec(capsule, lower={work: codec_at("Q4_0", "base")})
    x, importance = np.ones((2, 32), np.float32), np.ones(32, np.float32)
    short, whole = np.zeros((2, 18), np.uint8), np.zeros((2, 20), np.uint8)
    runs = {
        "plain": lambda data: codec.encode_rows(x, data),
        "weighted": lambda data: codec.encode_rows(x, data, importance),
        "decode": lambda data: codec.decode_rows(data, np.empty_like(x)),
    }
    for name, run in runs.items():
        run(short if name == work else whole)
        with pytest.raises(ValueError, match=r"encode to|decode from"):
            run(whole if name == work else short)


@pytest.mark.parametrize("name", ["Q4_1", "Q2_0", "IQ2_S"])
def test_a_codec_of_several_levels_writes_the_same_bytes(monkeypatch, name):
    x = make_rows("normal", 5, 768, 0.1, 3)
    importance = np.random.default_rng(1).random(768, np.float32)
    expected = codec_at(name, "base")
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    family = {"Q4_1": "legacy", "Q2_0": "lowbit", "IQ2_S": "iquants"}[name]
    codec = load_codec(f"quantreg_{family}.{name.lower()}", f"_{name.lower()}", faster_at=FASTER_AT)
    for weights in (None, importance):
        data, same = (np.zeros((5, 768 // c.block_size * c.type_size), np.uint8) for c in (codec, expected))
        codec.encode_rows(x, data, weights)
        expected.encode_rows(x, same, weights)
        np.testing.assert_array_equal(data, same)
    back, again = np.empty_like(x), np.empty_like(x)
    codec.decode_rows(data, back)
    expected.decode_rows(data, again)
    np.testing.assert_array_equal(back, again)


@pytest.mark.parametrize("wrong", [{"encode": "avx2"}, {"plain": "sse9"}])
def test_an_unknown_work_or_level_is_refused(wrong):
    with pytest.raises(ValueError, match="faster_at has"):
        load_codec("quantreg_legacy.q4_1", "_q4_1", faster_at=wrong)


@pytest.mark.skipif("avx512" not in NATIVE, reason="the built-in types only name a level below avx512")
def test_built_in_types_use_their_tables(monkeypatch):
    monkeypatch.delenv("QUANTREG_CPU", raising=False)
    assert lowered(types["BF16"]._load_codec()) == {"plain": "avx2", "decode": "avx2"}
    assert lowered(types["Q4_1"]._load_codec()) == {"plain": "avx2"}
    assert lowered(types["Q4_K"]._load_codec()) == {}


def test_a_level_that_was_not_built_is_reported_with_those_that_were(monkeypatch):
    """A build for one level only: a debug build, or a compiler that does not know the others."""
    find = quantreg_kernels.util.find_spec
    above = ("_avx2", "_avx512", "_neon")
    monkeypatch.setattr(quantreg_kernels.util, "find_spec", lambda name: None if name.endswith(above) else find(name))
    said = (
        r"_q1_0 was not built for the CPU level avx2 but for base: use QUANTREG_CPU=base, or reinstall quantreg_lowbit"
    )
    monkeypatch.setattr("quantreg_kernels._cpu.machine_levels", lambda: quantreg_kernels.LEVELS)
    monkeypatch.setenv("QUANTREG_CPU", "avx2")
    with pytest.raises(ImportError, match=said):
        load_codec("quantreg_lowbit.q1_0", "_q1_0")
    with pytest.raises(quantreg.CodecError, match=said):
        types["Q1_0"]._load_codec()
    monkeypatch.delenv("QUANTREG_CPU")
    assert load_codec("quantreg_lowbit.q1_0", "_q1_0").level == "base"


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
    for level in quantreg_kernels.LEVELS:
        assert (level in machine_levels()) == (not missing_features(level))


@on_x86_64
def test_what_is_missing_are_features_of_the_level_and_of_those_below():
    for level in ("avx2", "avx512"):
        assert set(missing_features(level)) <= set(level_features("avx2")) | set(level_features("avx512"))
