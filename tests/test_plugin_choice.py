"""Which plugins are loaded, which one provides a type, and what is said about those that are not loaded."""

import re
from types import ModuleType

import pytest
import toy
from entries import Entry, registry_of

import quantreg
from quantreg import PluginError, hookimpl
from quantreg.recipes import Row

# ---- hooks that are not hooks ----


@pytest.mark.parametrize(
    ("name", "mark", "message"),
    [
        ("register_type", hookimpl, "there is no hook register_type: did you mean register_types?"),
        ("register_type", lambda f: f, "there is no hook register_type: did you mean register_types?"),
        ("on_load", hookimpl, "there is no hook on_load: the hooks are register_types, score_importance,"),
        (
            "register_recipes",
            lambda f: f,
            "register_recipes is not marked as a hook: write @quantreg.hookimpl above it",
        ),
    ],
)
def test_a_misspelt_hook_and_one_without_its_mark_are_told(name, mark, message):
    module = ModuleType("theirs")
    setattr(module, name, mark(lambda register: None))
    broken = registry_of(Entry("bad", "bad-dist", lambda: module))
    (plugin,) = broken.plugins
    assert message in plugin.error


def test_hooks_of_every_name_need_the_mark():
    for name, function in [
        ("register_architectures", lambda register: None),
        ("register_commands", lambda cli: None),
        ("score_importance", lambda qtype, weights, columns: columns),
    ]:
        module = ModuleType("theirs")
        setattr(module, name, function)
        (plugin,) = registry_of(Entry("bad", "bad-dist", lambda module=module: module)).plugins
        assert f"{name} is not marked as a hook" in plugin.error


def test_a_helper_with_the_name_of_a_hook_and_a_types_hook_without_a_mark_stay_allowed():
    module = ModuleType("theirs")
    module.register_types = lambda register: register(toy.make())
    module.score_importance = lambda rows, columns: columns
    assert [t.name for t in registry_of(Entry("ok", "ok-dist", lambda: module)).all_types()] == ["TOY3"]


# ---- which plugins ----


def two_of_a_type():
    return [Entry(name, f"{name}-dist", lambda name=name: toy.Plugin(toy.make())) for name in ("first", "second")]


def test_a_name_with_a_minus_sign_in_quantreg_plugins_leaves_a_plugin_out(monkeypatch):
    for value, owner, unknown in [
        ("-first-dist", "second-dist", []),
        ("-First_Dist", "second-dist", []),
        ("-second", "first-dist", []),
        ("first,second,-first", "second-dist", []),
        ("-nobody", "first-dist", ["nobody"]),
    ]:
        monkeypatch.setenv("QUANTREG_PLUGINS", value)
        limited = registry_of(*two_of_a_type())
        assert limited.owner(limited.get("TOY3")).distribution == owner
        assert limited.unknown_limits == unknown
    monkeypatch.setenv("QUANTREG_PLUGINS", "-first,-second")
    assert registry_of(*two_of_a_type()).plugins == ()


def test_with_two_plugins_of_one_type_the_registry_says_which_was_taken_once_it_is_used():
    both = registry_of(*two_of_a_type())
    both.all_types()
    assert both.choices() == []
    both.get("toy3")
    said = (
        "TOY3 comes from first-dist, which is used instead of TOY3 of second-dist: to choose another, set "
        "QUANTREG_PLUGINS=-first-dist"
    )
    assert both.choices() == [said]
    assert both.choices() == []


PROJECT = """
[build-system]
build-backend = "{backend}"
[project]
name = "my-odd"
[project.entry-points.quantreg]
ODD3 = "my_odd"
"""


@pytest.mark.parametrize(
    ("folder", "backend", "command"),
    [
        (".", "flit_core", "run pip install -e ."),
        ("my-odd", "flit_core", "run pip install -e ./my-odd"),
        ("my-odd", "mesonpy", "run pip install --no-build-isolation ./my-odd"),
    ],
)
def test_an_unknown_type_of_a_project_in_the_current_folder_names_the_command(
    folder, backend, command, tmp_path, monkeypatch
):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "pyproject.toml").write_text(PROJECT.format(backend=backend))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "pyproject.toml").write_text("[project\n")
    monkeypatch.chdir(tmp_path)
    for name in ("ODD3", "odd3", "my_odd"):
        with pytest.raises(quantreg.UnknownTypeError, match=rf"the plugin in \.\S* is not installed: {command}"):
            registry_of().get(name)
    with pytest.raises(quantreg.UnknownTypeError) as raised:
        registry_of().get("OTHER")
    assert "not installed" not in str(raised.value)
    with pytest.raises(quantreg.UnknownTypeError) as raised:
        registry_of(Entry("a", "my-odd", lambda: ModuleType("a"))).get("ODD3")
    assert "not installed" not in str(raised.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("attn_vv", None, "Q6_K"), "a Row is for the role 'attn_vv', which no tensor has: did you mean 'attn_v'?"),
        ((("attn_k", "ffndown"), None, "Q6_K"), "the role 'ffndown', which no tensor has: did you mean 'ffn_down'?"),
        (
            ("shared", None, "Q6_K"),
            "the role 'shared', which no tensor has: the roles are output, token_embd, attn_qkv,",
        ),
        (("attn_v", "in the last layer", "Q6_K"), "a Row has the condition 'in the last layer': pass a function that"),
    ],
)
def test_a_misspelt_role_and_a_condition_that_is_no_function_are_told(row, message):
    with pytest.raises(quantreg.PluginError, match=re.escape(message)):
        Row(*row)


def test_a_type_that_was_refused_or_taken_back_is_not_told():
    registry = registry_of(*two_of_a_type()[:1])
    with pytest.raises(PluginError):
        registry.register_plugin(toy.Plugin(toy.make()))
    registry.get("TOY3")
    assert registry.choices() == []
