"""The public names: each means one thing, and the stub that type checkers read declares the same ones."""

import ast
import inspect
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest

import quantreg

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "quantreg", "quantreg.gguf", "quantreg.storage", "quantreg.recipes", "quantreg.importance", "quantreg.evaluation",
    "quantreg.jobs", "quantreg.safetensors", "quantreg.testing", "quantreg.scaffold", "quantreg.cli",
    "quantreg.inference", "quantreg.tokenization", "quantreg.quality", "quantreg.products",
    "quantreg.tuning", "quantreg.checkpoints", "quantreg.devices",
    pytest.param("quantreg.torch", marks=pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")),
]  # fmt: skip


def public_names(package):
    """The names of __all__, or else the functions and classes that a package defines itself."""
    if hasattr(package, "__all__"):
        return package.__all__
    return [name for name, value in vars(package).items() if getattr(value, "__module__", None) == package.__name__]


def submodules(package):
    return {module.name for module in iter_modules(package.__path__)}


def test_every_package_is_checked():
    found = {module.name for module in iter_modules(quantreg.__path__, "quantreg.") if module.ispkg}
    assert {"quantreg", *found} == {getattr(package, "values", [package])[0] for package in PACKAGES}


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_is_also_a_submodule(name):
    """Importing such a submodule would put the module in the place of the function or class."""
    package = import_module(name)
    assert not set(public_names(package)) & submodules(package)


@pytest.mark.parametrize("name", PACKAGES)
def test_no_import_of_a_submodule_replaces_a_public_name(name):
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "from importlib.util import find_spec\n"
        "from pkgutil import iter_modules\n"
        f"package = import_module({name!r})\n"
        "names = getattr(package, '__all__', ())\n"
        "before = {name: getattr(package, name) for name in names}\n"
        "for module in iter_modules(package.__path__):\n"
        "    if module.name != '__main__' and (module.name not in ('torch', 'torch_device') or find_spec('torch')):\n"
        "        import_module(f'{package.__name__}.{module.name}')\n"
        "print([name for name in names if getattr(package, name) is not before[name]])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("first", ["import quantreg.jobs.coverage", "import quantreg"])
def test_coverage_stays_a_function_when_its_module_is_imported(first):
    code = (
        f"{first}\n"
        "import quantreg\n"
        "function = quantreg.coverage\n"
        "import quantreg.jobs.coverage\n"
        "assert quantreg.coverage is function is quantreg.jobs.coverage.coverage\n"
        "assert callable(function)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def declared():
    """Public name -> (module, name there) of each import in the stub; None for a variable that it declares itself."""
    found = {}
    for node in ast.parse((Path(quantreg.__file__).parent / "__init__.pyi").read_text()).body:
        match node:
            case ast.ImportFrom(module=module, names=names, level=0):
                for alias in names:
                    assert alias.asname, f"{alias.name}: a stub exports a name only if the import repeats it with `as`"
                    assert alias.asname not in found
                    found[alias.asname] = (module, alias.name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = None
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                raise AssertionError(f"unexpected statement in the stub: {ast.unparse(node)}")
    return found


MODULES = ["checkpoints", "errors", "events", "gguf", "quality", "recipes", "testing"]


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_people_use_by_name_are_there_after_import_quantreg(name):
    code = (
        f"import sys, quantreg; assert 'quantreg.{name}' not in sys.modules or '{name}' == 'errors'; "
        f"print(quantreg.{name}.__name__, '{name}' in dir(quantreg))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == f"quantreg.{name} True\n", done.stderr


def test_the_stub_declares_exactly_the_public_names():
    assert sorted(declared()) == sorted([*quantreg.__all__, *MODULES])
    assert len(set(quantreg.__all__)) == len(quantreg.__all__)
    assert set(quantreg.__all__) <= set(dir(quantreg))


@pytest.mark.parametrize("name", sorted(declared()))
def test_a_name_of_the_stub_is_the_object_of_the_module_that_the_stub_names(name):
    source = declared()[name]
    value = getattr(quantreg, name)
    if source is None:
        assert not callable(value)
        assert not inspect.ismodule(value)
    else:
        module, there = source
        assert value is getattr(import_module(module), there)


def test_the_source_folder_says_that_it_is_not_the_installed_package(tmp_path):
    """As in a clone, whose folder `python` searches before the installed package."""
    for package in ("quantreg", "quantreg_kernels"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "meson.build", tmp_path)
    for code in ("import quantreg", "from quantreg import quantize", "import quantreg.gguf"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        (message,) = [line for line in done.stderr.splitlines() if line.startswith("ImportError")]
        assert "is quantreg's source, which is not compiled" in message
        assert "run `python -P`" in message
