"""Make the plugin distributions that the discovery tests install: one for each thing that can happen."""

import re
import shutil
from pathlib import Path

from documents import file_in

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
BASE_ONLY = ["--config-settings=setup-args=-Dbuildtype=plain"]
FAMILIES = {  # family -> the codec that is built
    "floats": "f16",
    "legacy": "q4_0",
    "kquants": "q4_k",
    "iquants": "iq4_nl",
    "lowbit": "q1_0",
    "microscaling": "mxfp4",
}


def make_all(scratch):
    """Make every plugin and return its (folder, options for pip)."""
    new = lambda *args: _new(scratch, *args)  # noqa: E731
    return [
        (new("my-q3"), []),
        (_failing(new("my-broken")), []),
        (_clashing(new("my-clash")), []),
        (_replacing(new("my-q41")), []),
        (_hooks(new("my-hooks")), []),
        (copied_family(scratch.sources), BASE_ONLY),
        (new("my-c3", "--cython"), ["--config-settings=build-dir=build"]),
        (_other_abi(new("my-abi", "--cython")), BASE_ONLY),
    ]


def _new(scratch, name, *options):
    scratch.quantreg("plugins", "new", name, *options, "--in", scratch.sources, plugins="", check=True)
    return scratch.sources / name


def copied_family(folder, family="legacy"):
    """Copy a family of codecs out of the source tree, as plugins/README.md describes.

    Only one codec remains, so that the copy builds quickly. The package, the name and the id of the type change: Q4_0
    with id 2 becomes ACME_Q4_0 with id 5002.
    """
    codec, old, new = FAMILIES[family], f"quantreg_{family}", f"acme_{family}"
    target = folder / f"acme-{family}"
    shutil.copytree(PLUGINS / family, target, ignore=shutil.ignore_patterns("__pycache__"))
    package = (target / old).rename(target / new)
    for path in [*target.glob("*"), *package.glob("*")]:
        if path.is_file():
            text = path.read_text().replace(old, new).replace(old.replace("_", "-"), new.replace("_", "-"))
            path.write_text(text)
    name, plugin = codec.upper(), package / f"{codec}.py"
    _edit(target / "meson.build", r"codecs = \[.*\]", f"codecs = ['{codec}']")
    _edit(target / "pyproject.toml", r"(?s)\[project.entry-points.quantreg\].*", (
        f'[project.entry-points.quantreg]\nACME_{name} = "{new}.{codec}"\n'))  # fmt: skip
    _edit(plugin, f'QuantType\\(\n    "{name}"', f'QuantType(\n    "ACME_{name}"')
    type_id = int(re.search(r"type_id=(\d+)", plugin.read_text())[1])
    _edit(plugin, r"type_id=\d+", f"type_id={5000 + type_id}")
    _edit(package / f"_{codec}.pyx", r"TYPE_ID = \d+", f"TYPE_ID = {5000 + type_id}")
    return target


def cut_quantreg(folder):
    """Copy quantreg with only two types, so that it builds quickly."""
    target = folder / "quantreg"
    target.mkdir(parents=True)
    for name in ("meson.build", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PLUGINS.parent / name, target)
    for name in ("quantreg", "quantreg_kernels", "plugins/floats"):
        shutil.copytree(PLUGINS.parent / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    _edit(target / "meson.build", r"foreach family : \[.*\]", "foreach family : ['floats']")
    _edit(target / "plugins" / "floats" / "meson.build", r"codecs = \[.*\]", "codecs = ['f32', 'f16']")
    _edit(target / "pyproject.toml", r'(?m)^\w+ = "quantreg_(?!floats\.f(32|16)")\w+\.\w+"\n', "")
    return target


def _failing(folder):
    _edit(folder / "my_broken" / "my_broken.py", "import numpy as np", "import numpy as np\nimport frobnicate")
    return folder


def _clashing(folder):
    _edit(folder / "my_clash" / "my_clash.py", r"type_id=\d+", "type_id=12")
    return folder


def _replacing(folder):
    shutil.copy(Path(__file__).parent / "numpy_q4_1.py", folder / "my_q41" / "my_q41.py")
    return folder


def _hooks(folder):
    """Replace the codec with the example in docs/hooks.md."""
    (folder / "my_hooks" / "my_hooks.py").write_text(file_in("hooks.md", "my_hooks.py"))
    return folder


def _other_abi(folder):
    """Replace the type with two: one is built for an older ABI, one for a newer ABI."""
    package = folder / "my_abi"
    for name, number, type_id in (("older", 0, 4810), ("newer", 2, 4811)):
        codec, plugin = (package / file for file in (f"_{name}.pyx", f"{name}.py"))
        shutil.copy(package / "_my_abi.pyx", codec)
        codec.write_text(re.sub(r"TYPE_ID = \d+", f"TYPE_ID = {type_id}", codec.read_text()))
        codec.write_text(codec.read_text() + f"row_codec.abi_major = {number}\n")
        text = (package / "my_abi.py").read_text().replace("_my_abi", f"_{name}").replace("MY_ABI", name.upper())
        plugin.write_text(re.sub(r"type_id=\d+", f"type_id={type_id}", text))
    for file in ("my_abi.py", "_my_abi.pyx"):
        (package / file).unlink()
    _edit(folder / "meson.build", r"codecs = \[.*\]", "codecs = ['older', 'newer']")
    _edit(folder / "pyproject.toml", r"MY_ABI = .*", 'OLDER = "my_abi.older"\nNEWER = "my_abi.newer"')
    return folder


def _edit(path, pattern, text):
    before = path.read_text()
    after = re.sub(pattern, lambda match: text, before)
    assert after != before, f"{path}: the pattern {pattern} changes nothing"
    path.write_text(after)
