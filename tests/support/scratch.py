"""A scratch environment that sees the quantreg under test, with real plugin distributions installed into it."""

import importlib.util
import os
import shutil
import site
import subprocess
import sys
import time
import venv
from pathlib import Path

from toy_plugins import make_all

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {"mesonpy": "meson-python", "Cython": "Cython>=3.3", "flit_core": "flit_core>=3.4"}
COMMANDS = {"meson": "meson>=1.6", "ninja": "ninja", "cython": "Cython>=3.3"}


class Scratch:
    """``python(*args)`` and ``quantreg(*args)`` run in the environment; ``plugins`` limits what quantreg loads."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.bin = self.folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        self.sources = self.folder / "sources"

    def run(self, *args, plugins=None, cwd=None, check=False):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("QUANTREG_", "PYTHON"))}
        env["PATH"] = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), env.get("PATH", "")])
        if plugins is not None:
            env["QUANTREG_PLUGINS"] = f"quantreg,{plugins}" if plugins else "quantreg"
        command = [str(self.bin / "python"), "-P", *map(str, args)]
        done = subprocess.run(command, env=env, cwd=cwd or self.folder, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, args))} failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done

    def quantreg(self, *args, **options):
        return self.run("-m", "quantreg", *args, **options)

    def pip_install(self, *args):
        pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        return self.run(*pip, *args, check=True)

    # ---- making it ----

    def build(self):
        self.make_environment()
        folders = make_all(self)
        plain = [folder for folder, options in folders if not options]
        self.pip_install("--no-build-isolation", *plain)
        for folder, options in folders:
            if options:
                self.pip_install("--no-build-isolation", *options, folder)

    def make_environment(self):
        venv.create(self.folder / "env", with_pip=False)
        packages = next((self.folder / "env").rglob("site-packages"))
        outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and Path(path).is_dir()]
        (packages / "outer.pth").write_text("\n".join(dict.fromkeys([*outer, *site.getsitepackages()])) + "\n")
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        missing = {need for name, need in TOOLS.items() if importlib.util.find_spec(name) is None}
        missing |= {need for name, need in COMMANDS.items() if shutil.which(name, path=search) is None}
        if missing:
            self.run(
                "-m", "pip", "install", "-q", "--ignore-installed", *TOOLS.values(), *COMMANDS.values(), check=True
            )
        self.sources.mkdir()


def shared(tmp_path_factory):
    """The scratch environment of this test run, built once and by one process."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    folder, outcome = base / "scratch", base / "scratch-outcome"
    try:
        folder.mkdir()
    except FileExistsError:
        until = time.monotonic() + 600
        while not outcome.exists() and time.monotonic() < until:
            time.sleep(0.2)
        problem = outcome.read_text() if outcome.exists() else "not built within ten minutes"
    else:
        problem = ""
        try:
            Scratch(folder).build()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        (base / "scratch-outcome.part").write_text(problem)
        os.replace(base / "scratch-outcome.part", outcome)
    assert not problem, problem
    return Scratch(folder)
