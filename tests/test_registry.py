"""Plugins in, types out: loading, order, clashes, broken plugins, lookups."""

import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import numpy as np
import pytest
from entries import Entry, Installed, fail, registry_of

import quantreg
from quantreg import CodecError, PluginError, QuantType, UnknownTypeError, hookimpl, types
from quantreg.ggml import FILE_TYPE_NAMES, REMOVED_FILE_TYPES, TYPES
from quantreg.recipes.builtin import BUILT_IN


def make_type(name="X3", type_id=1003, **options):
    return QuantType(name, type_id=type_id, block_size=32, type_size=14, codec=lambda: None, **options)


def plugin(*qtypes, replace=False, distribution="test-dist"):
    @hookimpl
    def register_types(register):
        for qtype in qtypes:
            register(qtype, replace=True) if replace else register(qtype)

    module = ModuleType("test_plugin")
    module.__distribution__, module.register_types = distribution, register_types
    return module


def run(code, **env):
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_quantreg_loads_no_codec_plugin_or_numpy():
    loaded = run(
        "import sys, quantreg; "
        "print([m for m in sys.modules if m == 'numpy' or m.startswith(('quantreg_', 'quantreg.'))])"
    )
    assert loaded == "[]"


def test_the_types_load_without_any_codec_and_without_numpy():
    loaded = run(
        "import sys, quantreg; quantreg.types['Q4_K']; "
        "print([m for m in sys.modules if m == 'numpy' or (m.startswith('quantreg_') and '._' in m)])"
    )
    assert loaded == "[]"


def test_a_codec_is_loaded_at_its_first_use_and_no_other():
    loaded = run(
        "import sys, numpy, quantreg; quantreg.quantize(numpy.zeros(256), 'Q4_K'); "
        "print(sorted(m for m in sys.modules if m.startswith('quantreg_') and '._' in m and 'kernels' not in m))",
        QUANTREG_CPU="base",
    )
    assert loaded == "['quantreg_kquants._q4_k_base']"


def test_no_built_in_plugin_is_broken():
    from quantreg.registry import registry

    assert [(p.name, p.error) for p in registry.plugins if p.error] == []


def test_every_type_of_ggml_is_registered_with_the_containers_block_layout():
    ours = {t.type_id: (t.name, t.block_size, t.type_size, t.row_header_size) for t in map(types.get, types)}
    assert ours == {type_id: tuple(layout) for type_id, layout in TYPES.items()}


@pytest.mark.parametrize(
    ("name", "bits", "ratio"),
    [("Q4_K", 4.5, 64 / 9), ("Q8_0", 8.5, 32 / 8.5), ("Q6_K", 6.5625, 32 / 6.5625), ("F16", 16, 2)],
)
def test_bits_per_weight_come_from_the_block_layout(name, bits, ratio):
    assert types[name].bits_per_weight == bits
    assert types[name].compression_ratio == pytest.approx(ratio, rel=1e-15)


def test_memory_is_estimated_in_gigabytes_of_ten_to_the_ninth():
    assert quantreg.estimate_memory_gb(7.0, "Q4_K") == 3.9375
    for name in types:
        assert quantreg.estimate_memory_gb(1.0, name) == types[name].bits_per_weight / 8


def test_a_type_is_found_by_name_in_any_case_by_id_and_by_itself():
    q4 = types["Q4_K"]
    assert types["q4_k"] is types[12] is types[q4] is q4
    assert "Q4_K" in types
    assert 12 in types
    assert "Q4_X" not in types
    assert types.get("Q4_X") is None


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownTypeError, match=r"unknown quant type 'q4k': did you mean Q4_K\?"):
        types["q4k"]
    with pytest.raises(UnknownTypeError, match="no plugin provides GGUF type id 999"):
        types[999]


def test_types_pickle_by_name():
    assert pickle.loads(pickle.dumps(types["Q4_K"])) is types["Q4_K"]


def test_built_ins_come_first_then_plugins_by_distribution_name():
    order = []
    entries = [
        Entry(name, dist, lambda name=name: order.append(name) or ModuleType(name))
        for name, dist in [("b", "zeta"), ("a", "alpha"), ("c", "quantreg")]
    ]
    registry_of(*entries).all_types()
    assert order == ["c", "a", "b"]


def test_a_plugin_that_fails_to_import_disables_only_itself_and_is_reported():
    good = make_type()
    registry = registry_of(
        Entry("bad", "broken-dist", fail(ImportError("no module named frobnicate"))),
        Entry("good", "good-dist", lambda: plugin(good)),
    )
    assert registry.get("X3") is good
    bad = next(p for p in registry.plugins if p.error)
    assert bad.distribution == "broken-dist"
    assert "no module named frobnicate" in bad.error
    with pytest.raises(UnknownTypeError, match="plugin bad of broken-dist: cannot be imported"):
        registry.get("Q4_K")


class Hooks:
    def __init__(self, qtype):
        self.qtype = qtype

    @hookimpl
    def register_types(self, register):
        register(self.qtype)


def in_a_module(implementation, name="register_types"):
    module = ModuleType("theirs")
    setattr(module, name, implementation)
    return module


@pytest.mark.parametrize(
    "make",
    [
        Hooks,
        lambda qtype: in_a_module(Hooks(qtype).register_types),
        lambda qtype: in_a_module(staticmethod(hookimpl(lambda register: register(qtype)))),
        lambda qtype: type("Theirs", (), {"register_types": staticmethod(hookimpl(lambda register: register(qtype)))}),
    ],
    ids=["object", "bound method", "static method", "class"],
)
def test_a_plugin_may_be_an_object_a_class_or_a_module_of_either(make):
    qtype = make_type()
    registry = registry_of(Entry("theirs", "their-dist", lambda: make(qtype)))
    assert registry.get("X3") is qtype
    assert registry.hooks_of(registry.plugins[0]) == ["register_types"]


def test_a_hook_may_have_another_name_in_its_module():
    commands = hookimpl(lambda cli: None, specname="register_commands")
    registry = registry_of(Entry("theirs", "their-dist", lambda: in_a_module(commands, "more")))
    assert registry.hooks_of(registry.plugins[0]) == ["register_commands"]


def test_a_damaged_distribution_does_not_stop_the_others():
    damaged, good = (Entry(name, f"{name}-dist", lambda: plugin(make_type())) for name in ("zz", "good"))
    damaged.dist = Installed(None)
    registry = registry_of(damaged, good)
    assert [(p.distribution, bool(p.error)) for p in registry.plugins] == [("good-dist", False), ("unknown", True)]


def test_a_plugin_whose_hook_raises_disables_only_itself():
    module = ModuleType("bad")
    module.register_types = hookimpl(lambda register: 1 / 0)
    registry = registry_of(
        Entry("bad", "bad-dist", lambda: module), Entry("good", "good-dist", lambda: plugin(make_type()))
    )
    assert registry.get("X3")
    assert "ZeroDivisionError" in next(p.error for p in registry.plugins if p.error)


@pytest.mark.parametrize(
    "clash", [make_type("X3", 1004), make_type("X4", 1003), make_type("x3", 1004)], ids=["name", "id", "case"]
)
def test_a_clash_names_both_distributions_and_the_first_keeps_the_type(clash):
    first = make_type()
    registry = registry_of(
        Entry("a", "first-dist", lambda: plugin(first)), Entry("b", "second-dist", lambda: plugin(clash))
    )
    assert registry.all_types() == (first,)
    error = next(p.error for p in registry.plugins if p.error)
    assert "second-dist" in error
    assert "first-dist" in error
    assert ("another id, 1000 or above" if clash.name == "X4" else "choose another name") in error


@pytest.mark.parametrize("name", ["Q4_K_M", "iq3_xs", "COPY", "Q2_K_S", "Q4_0_4_4"])
def test_a_type_with_the_name_of_a_file_type_is_refused_and_disables_only_its_plugin(name):
    good = make_type()
    registry = registry_of(
        Entry("a", "first-dist", lambda: plugin(make_type(name, 1010))), Entry("b", "second-dist", lambda: plugin(good))
    )
    assert registry.all_types() == (good,)
    error = registry.plugins[0].error
    assert f"first-dist registers a type {name}, but `quantreg quantize` knows {name} as a file type" in error
    assert f"choose another name, such as MY_{name}" in error
    assert "already provides" not in error


def test_the_names_that_no_type_may_have_are_those_of_all_file_types_that_are_no_types():
    names = {name for file_type in BUILT_IN for name in (file_type.name, *file_type.aliases)}
    names |= {name for name, _ in REMOVED_FILE_TYPES.values()}
    assert names - {layout.name for layout in TYPES.values()} == FILE_TYPE_NAMES


def test_a_type_of_ggmls_may_be_provided_though_it_is_a_file_type_too():
    q8_0 = QuantType("Q8_0", type_id=8, block_size=32, type_size=34, codec=lambda: None)
    iq2_s = QuantType("IQ2_S", type_id=22, block_size=256, type_size=82, codec=lambda: None)
    registry = registry_of(Entry("a", "first-dist", lambda: plugin(q8_0, iq2_s)))
    assert registry.all_types() == (q8_0, iq2_s)


def test_two_entry_points_of_one_module_are_told():
    module = plugin(make_type())
    registry = registry_of(Entry("a", "a-dist", lambda: module), Entry("b", "a-dist", lambda: module))
    assert [t.name for t in registry.all_types()] == ["X3"]
    assert [p.error for p in registry.plugins] == [
        None, "a-dist.b is already registered, as a-dist:a: use one entry point per module",
    ]  # fmt: skip


def test_registering_a_plugin_twice_leaves_the_first():
    module = plugin(make_type())
    registry = registry_of(Entry("a", "a-dist", lambda: module))
    with pytest.raises(PluginError, match="already registered, as a-dist:a"):
        registry.register_plugin(module)
    assert registry.hooks_of(registry.plugins[0]) == ["register_types"]
    assert len(registry.plugins) == 1


def test_something_else_than_a_type_is_told():
    registry = registry_of(Entry("a", "a-dist", lambda: plugin(make_type(), "X4")))
    assert registry.all_types() == ()
    assert registry.plugins[0].error == "register() takes a quantreg.QuantType, not str"


def test_one_plugin_with_two_types_whose_names_differ_in_case_only_is_told():
    registry = registry_of(Entry("a", "a-dist", lambda: plugin(make_type("X3", 1003), make_type("x3", 1004))))
    assert registry.all_types() == ()
    assert registry.plugins[0].error == "a-dist registers X3 (id 1003) twice"


def test_a_clash_registers_none_of_the_plugins_types():
    first, other = make_type(), make_type("Y", 1010)
    registry = registry_of(
        Entry("a", "first-dist", lambda: plugin(first)), Entry("b", "second-dist", lambda: plugin(other, make_type()))
    )
    assert registry.find("Y") is None


def test_a_type_is_replaced_only_on_purpose_and_the_registry_says_so():
    first, second = make_type(), make_type()
    registry = registry_of(
        Entry("a", "first-dist", lambda: plugin(first)), Entry("b", "second-dist", lambda: plugin(second, replace=True))
    )
    assert registry.get("X3") is second
    assert registry.owner(second).replaced == [("X3", "first-dist")]


@pytest.mark.parametrize(
    "other",
    [
        QuantType("Q4_1", type_id=3, block_size=32, type_size=14, codec=lambda: None),
        QuantType("Q4_1", type_id=1003, block_size=32, type_size=20, codec=lambda: None),
        QuantType("MY_Q4_1", type_id=3, block_size=32, type_size=20, codec=lambda: None),
        QuantType("Q4_1", type_id=3, block_size=32, type_size=20, row_header_size=4, codec=lambda: None),
    ],
    ids=["layout", "id", "name", "header"],
)
def test_what_replaces_a_built_in_keeps_what_is_in_files(other):
    q4_1 = types["Q4_1"]
    registry = registry_of(
        Entry("Q4_1", "quantreg", lambda: plugin(q4_1)), Entry("b", "b-dist", lambda: plugin(other, replace=True))
    )
    assert registry.all_types() == (q4_1,)
    error = registry.plugins[1].error
    assert "must keep Q4_1 with id 3, 32 weights in 20 bytes, not " in error
    assert error.endswith("choose an id of 1000 or above for another format")


def test_quantreg_plugins_limits_what_is_loaded(monkeypatch):
    entries = [
        Entry("a", "first-dist", lambda: plugin(make_type())),
        Entry("b", "b-dist", lambda: plugin(make_type("Y", 1010))),
    ]
    monkeypatch.setenv("QUANTREG_PLUGINS", "b")
    assert [t.name for t in registry_of(*entries).all_types()] == ["Y"]
    monkeypatch.setenv("QUANTREG_PLUGINS", "first-dist")
    assert [t.name for t in registry_of(*entries).all_types()] == ["X3"]


def test_a_codec_of_another_type_is_refused():
    wrong = QuantType("X3", type_id=1003, block_size=32, type_size=14, codec=lambda: types["Q4_K"].codec)
    with pytest.raises(CodecError, match=r"codec of X3 says type_id = 12, but its plugin says 1003"):
        wrong.codec  # noqa: B018


def test_a_codec_that_cannot_be_loaded_is_a_clear_error():
    broken = QuantType("X3", type_id=1003, block_size=32, type_size=14, codec=fail(ImportError("not built")))
    with pytest.raises(CodecError, match="codec of X3 cannot be loaded: not built"):
        broken.codec  # noqa: B018


def test_a_quant_type_refuses_an_impossible_layout():
    with pytest.raises(PluginError, match="block_size"):
        QuantType("X", type_id=1, block_size=0, type_size=1, codec=None)
    with pytest.raises(PluginError, match="type_id"):
        QuantType("X", type_id=-1, block_size=1, type_size=1, codec=None)


def test_entry_points_are_real_entry_points():
    from quantreg.registry import registry

    assert {p.distribution for p in registry.plugins} >= {"quantreg"}
    assert EntryPoint("Q4_K", "quantreg_kquants.q4_k", "quantreg").load().Q4_K is types["Q4_K"]


def test_a_type_that_nobody_registered_is_a_key_error_as_in_any_mapping():
    for key in ("Q9_9", 999):
        with pytest.raises(KeyError) as raised:
            types[key]
        assert not str(raised.value).startswith(("'", '"'))  # a plain KeyError shows its message in quotes
        assert types.get(key) is None
        assert types.get(key, "other") == "other"
        assert key not in types
    assert types.get("q4_k") is types[12]


def test_the_hook_answers_with_the_encoders_own_scores_if_no_plugin_does():
    from quantreg.registry import registry

    weights = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    columns = np.random.default_rng(1).random(256).astype(np.float32)
    for name in ("Q4_K", "IQ4_NL", "Q4_0"):
        found = registry.hook.score_importance(qtype=types[name], tensor=None, weights=weights, columns=columns)
        np.testing.assert_array_equal(found, types[name].score(weights, columns))
    assert registry.hook.score_importance(qtype=types["Q4_K"], tensor=None, weights=weights, columns=None) is None
