"""A type that replaces another on purpose: the kit compares the two, and the scaffold's compiled twins pass."""

import re

import numpy as np
import pytest
import scratch as scratch_environment
import toy

import quantreg
from quantreg.registry import registry
from quantreg.testing import check_codec


@pytest.fixture
def replaced():
    """Register TOY3, and then a replacement for it. Return the outcome of the check `twin` on the replacement."""
    done = []

    def register(plugin):
        registry.register_plugin(plugin)
        done.append(plugin)

    def outcome(new, old=None):
        register(toy.Plugin(old or toy.make()))
        register(Replacement(new))
        report = check_codec(new, raises=False)
        return next(o for o in report.outcomes if o.check == "twin")

    yield outcome
    for plugin in reversed(done):
        registry.unregister_plugin(plugin)


class Replacement(toy.Plugin):
    @quantreg.hookimpl
    def register_types(self, register):
        for qtype in self.qtypes:
            register(qtype, replace=True)


def changed_in(row):
    """An encoder that sets the last byte of this row."""

    def encode(rows, importance):
        out = toy.encode(rows, importance)
        out[row:, -1] ^= 1
        return out

    return encode


def test_the_same_codec_is_a_twin(replaced):
    assert replaced(toy.make()).status == "passed"


def test_a_type_that_replaces_none_has_no_twin():
    report = check_codec(toy.make(), raises=False)
    outcome = next(o for o in report.outcomes if o.check == "twin")
    assert (outcome.status, outcome.message) == ("not applicable", "the type replaces no other")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"encode": changed_in(0)}, r"byte 41 of row 0, in block 2, is \d+, and \d+ from the replaced codec in NumPy"),
        ({"encode": changed_in(16)}, "byte 41 of row 16"),
        ({"decode": lambda blocks: toy.decode(blocks) * np.float32(1.0001)}, "random bytes decode to .* decode alike"),
        ({"encode": lambda rows: toy.encode(rows, None)}, "only one of this codec and the replaced one in NumPy reads"),
        ({"score": lambda rows, columns: np.sqrt(columns) * np.ones_like(rows)}, "error weights .* differ"),
        ({"encode": None}, "the replaced codec in NumPy encodes, and this one does not"),
        (
            {"encode": lambda rows, importance: toy.encode(rows.clip(-2e5, 2e5), importance)},
            "takes all, and the replaced one .* refuses",
        ),
    ],
)
def test_a_twin_that_differs_fails_with_the_place(parts, message, replaced):
    outcome = replaced(toy.make(**parts))
    assert outcome.status == "failed"
    assert re.search(message, outcome.message), outcome.message


def test_another_layout_is_not_compared(replaced):
    new = toy.make(block_size=16, type_size=14)
    assert replaced(new).message == "TOY3, which the type replaces, has another layout"


def test_what_was_replaced_is_known_until_the_plugin_goes():
    old, new = toy.make(), toy.make()
    plugins = toy.Plugin(old), Replacement(new)
    for plugin in plugins:
        registry.register_plugin(plugin)
    assert registry.replaced_by(new) is old
    assert registry.replaced_by(old) is None
    for plugin in reversed(plugins):
        registry.unregister_plugin(plugin)
    assert registry.replaced_by(new) is None


# ---- the templates, built ----

BASE_ONLY = ["--config-settings=setup-args=-Dbuildtype=plain"]


def twin_of(scratch, name, *options, edit=lambda text: text):
    """Make and install a plugin in NumPy and its compiled twin. Return what the kit says about the twin."""
    module, both = name.replace("-", "_"), f"{name},{name}-cython"
    scratch.quantreg("plugins", "new", name, *options, "--in", scratch.sources, plugins="", check=True)
    source = scratch.sources / name / module / f"{module}.py"
    source.write_text(edit(source.read_text()))
    scratch.pip_install("--no-build-isolation", scratch.sources / name)
    scratch.quantreg("plugins", "new", name, "--cython", "--in", scratch.sources, plugins=both, check=True)
    scratch.pip_install("--no-build-isolation", *BASE_ONLY, scratch.sources / f"{name}-cython")
    return scratch.quantreg("plugins", "check", module.upper(), "--quick", plugins=both)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("twin-b16", ["--block", "16"]),
        ("twin-b48", ["--block", "48"]),
        ("twin-r64", ["--block", "64", "--row-header", "9"]),
    ],
)
def test_the_twin_of_a_new_plugin_writes_its_bytes(name, options, tmp_path_factory):
    done = twin_of(scratch_environment.shared(tmp_path_factory), name, *options)
    assert "passed  twin\n" in done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_twin_of_another_layout_builds_and_fails_the_comparison(tmp_path_factory):
    scratch = scratch_environment.shared(tmp_path_factory)
    done = twin_of(scratch, "twin-x", edit=lambda text: text.replace("BLOCK, BYTES = 32, 14", "BLOCK, BYTES = 8, 5"))
    assert done.returncode == 1
    assert "failed  twin: random bytes decode to 0 in row 0, column 0" in done.stdout
    assert "passed  guard_pages" in done.stdout
