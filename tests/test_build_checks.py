"""What build files and headers refuse: compilers and machines for which codecs would write wrong bytes."""

import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from scratch import Scratch

import quantreg_kernels
from quantreg.scaffold import new_plugin
from quantreg_kernels._cpu import machine_levels

ROOT = Path(__file__).resolve().parents[1]
CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
CODECS = [*ROOT.glob("plugins/*/*/_*.pyx"), *ROOT.glob("quantreg/scaffold/_templates/cython*/*/_*.pyx")]

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")
# On x86-64 `base` has no fused instructions, so that only a machine with them can show that they are found.
can_fuse = pytest.mark.skipif(
    platform.machine() == "x86_64" and "avx2" not in machine_levels(), reason="this machine fuses no a * b + c"
)


# ---- headers ----


def compiled(compiler, *options, header="platform.h"):
    """Compile a file that only includes the header; return the compiler's errors."""
    command = [compiler, *options, "-fsyntax-only", f"-I{quantreg_kernels.get_include()}", "-x", "c", "-"]
    text = f"#include <quantreg_kernels/{header}>\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (done.returncode != 0) == ("error:" in done.stderr), done.stderr
    return done.stderr


BIG_ENDIAN = ("-Wno-builtin-macro-redefined", "-U__BYTE_ORDER__", "-D__BYTE_ORDER__=4321")


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", ["platform.h", "lanes.h"])
def test_big_endian_machines_are_refused(compiler, header):
    assert "error" not in compiled(compiler, "-O3", header=header)
    assert "quantreg needs a little-endian machine" in compiled(compiler, *BIG_ENDIAN, header=header)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("option", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_fast_math_is_refused(compiler, option):
    """With it `x - x` is 0 for a NaN too, so no NaN would be found."""
    assert "must not be compiled with -ffast-math" in compiled(compiler, option)


@pytest.mark.skipif(platform.machine() != "x86_64" or "gcc" not in COMPILERS, reason="only GCC on x86 can use the x87")
def test_arithmetic_in_higher_precision_is_refused():
    assert "-mfpmath=sse" in compiled("gcc", "-mfpmath=387")


@pytest.mark.parametrize("path", CODECS, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_codec_includes_the_header(path):
    """abi.pxd includes it for whoever cimports from it."""
    assert re.search(r"^from quantreg_kernels\.abi cimport .*\bcodec_capsule\b", path.read_text(), re.MULTILINE)


# ---- build files ----


@pytest.fixture
def tools(tmp_path):
    """An environment in which Meson and Cython run."""
    scratch = Scratch(tmp_path / "scratch")
    scratch.make_environment()
    return scratch


@pytest.fixture
def setup(tools, tmp_path):
    """Run `meson setup` on a new plugin, and return whether it succeeds, what it says and the compiler's messages."""

    def run(*options, replace=("", "")):
        folder = new_plugin("acme-fp5", tmp_path, kind="cython")
        text = (folder / "meson.build").read_text()
        (folder / "meson.build").write_text(text.replace(*replace))
        done = tools.run("-m", "mesonbuild.mesonmain", "setup", tmp_path / "build", folder, *options)
        log = tmp_path / "build" / "meson-logs" / "meson-log.txt"
        return done.returncode == 0, done.stdout + done.stderr, log.read_text()

    return run


def test_a_codec_does_not_compile_for_a_big_endian_machine(tools, tmp_path):
    codec = next(new_plugin("acme-fp5", tmp_path, kind="cython").rglob("*.pyx"))
    include = quantreg_kernels.get_include()
    tools.run("-m", "cython", "-I", include, codec, check=True)
    command = [CC, "-fsyntax-only", f"-I{include}", f"-I{sysconfig.get_paths()['include']}", codec.with_suffix(".c")]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([*command, *BIG_ENDIAN], capture_output=True, text=True)
    assert done.returncode != 0
    assert "quantreg needs a little-endian machine" in done.stderr


def test_a_compiler_that_keeps_arithmetic_as_written_is_taken(setup):
    ok, said, _ = setup()
    assert ok, said
    assert 'Checking if "arithmetic at CPU level base" runs: YES' in said
    for level in machine_levels():
        assert f'"arithmetic at CPU level {level}" runs: YES' in said


@can_fuse
def test_a_compiler_that_fuses_is_refused(setup):
    ok, said, _ = setup(replace=("'-ffp-contract=off'", "'-ffp-contract=fast'"))
    assert not ok
    assert "the compiler fuses a * b + c in spite of -ffp-contract=off, so codecs would write wrong bytes." in said
    assert "Build with GCC or Clang, and remove options for floating point from CFLAGS." in said


def test_fast_math_from_the_environment_is_refused(setup, monkeypatch):
    monkeypatch.setenv("CFLAGS", "-ffast-math")
    ok, said, log = setup()
    assert not ok
    assert "quantreg codecs cannot be compiled for base. meson-logs/meson-log.txt holds the message" in said
    assert "must not be compiled with -ffast-math" in log


# Runs the program with which Meson tries the compiler, but no other.
NO_SUCH_INSTRUCTION = """['sh', '-c', 'case "$0" in *sanity*) exec "$0";; esac; kill -ILL $$']"""


def cross_file(tmp_path, wrapper):
    """A cross build without an emulator, or one for a processor that lacks an instruction."""
    machine = platform.machine()
    cross = f"[binaries]\nc = '{CC}'\ncython = '{shutil.which('cython')}'\n"
    cross += f"exe_wrapper = {wrapper}\n" if wrapper else ""
    cross += "[properties]\nneeds_exe_wrapper = true\n"
    cross += f"[host_machine]\nsystem = 'linux'\ncpu_family = '{machine}'\ncpu = '{machine}'\nendian = 'little'\n"
    (tmp_path / "cross.ini").write_text(cross)
    return "--cross-file", tmp_path / "cross.ini"


cannot_run = pytest.mark.parametrize("wrapper", [None, NO_SUCH_INSTRUCTION], ids=["no emulator", "illegal instruction"])


@cannot_run
def test_the_assembly_is_read_for_a_level_that_cannot_be_run(setup, tmp_path, wrapper):
    ok, said, _ = setup(*cross_file(tmp_path, wrapper))
    assert ok, said
    for level in ("base", "avx2", "avx512") if platform.machine() == "x86_64" else machine_levels():
        assert f"cannot run code for {level}: the compiler's assembly was read instead, and fuses no a * b + c." in said


@can_fuse
@cannot_run
def test_a_compiler_that_fuses_is_refused_even_if_its_code_cannot_be_run(setup, tmp_path, wrapper):
    ok, said, _ = setup(*cross_file(tmp_path, wrapper), replace=("'-ffp-contract=off'", "'-ffp-contract=fast'"))
    assert not ok
    assert "the compiler fuses a * b + c in spite of -ffp-contract=off, so codecs would write wrong bytes." in said


@pytest.mark.skipif("clang" not in COMPILERS, reason="needs Clang")
@pytest.mark.parametrize(("prefix", "fuses"), [("", True), ("/clang:", False)])
def test_clang_cl_needs_its_own_spelling_of_the_options(prefix, fuses):
    """Clang on Linux can act as clang-cl; what it ignores, it ignores there, too."""
    include = Path(quantreg_kernels.get_include())
    command = ["clang", "--driver-mode=cl", "--target=x86_64-pc-windows-msvc", "/O2", "/clang:-march=x86-64-v3"]
    command += [f"{prefix}-ffp-contract=off", f"/clang:-I{include}", "/clang:-S", "/clang:-o", "/clang:-"]
    done = subprocess.run([*command, include / "quantreg_kernels" / "probe.c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("unknown argument ignored" in done.stderr) == fuses
    assert ("vfmadd" in done.stdout) == fuses
    text = (ROOT / "plugins" / "floats" / "meson.build").read_text()
    assert "cc.get_id() == 'clang-cl' ? '/clang:' : ''" in text
