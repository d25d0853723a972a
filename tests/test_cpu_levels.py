"""Which CPU level a codec is loaded for."""

import pytest

import quantreg_kernels
from quantreg_kernels import load_codec, usable_levels
from quantreg_kernels._cpu import machine_levels


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
