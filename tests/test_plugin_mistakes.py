"""Mistakes that authors of plugins make: each message names the part at fault and says what to write."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from entries import registered

import quantreg
from quantreg import CodecError, NonFiniteError, PlanError, PluginError, UnknownTypeError
from quantreg.jobs.advice import with_advice
from quantreg.recipes import Choice, Keep, Row
from quantreg.registry import registry

LLAMA = {"general.architecture": "llama", "llama.block_count": 1}
QTYPE = quantreg.QuantType("FIXED", type_id=1403, block_size=8, type_size=8, codec=lambda: None)


@pytest.fixture
def source(tmp_path):
    names = ("blk.0.ffn_down.weight", "blk.0.attn_q.weight")
    quantreg.write(tmp_path / "in.gguf", LLAMA, {name: np.ones((4, 256), np.float32) for name in names})
    return tmp_path / "in.gguf"


def decode(blocks):
    return blocks.astype(np.float32)


# ---- the arguments of a codec's functions ----


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda rows, importance, context: rows, "encode of FIXED takes context by position: write encode.rows"),
        (lambda rows, parameters: rows, r"encode of FIXED takes parameters by position: write .* after a \*"),
        (lambda rows, *, contxt: rows, "encode of FIXED asks for contxt, which quantreg does not know"),
        (lambda rows, *, contxt=None: rows, "encode of FIXED asks for contxt, which quantreg does not know"),
        (lambda rows, *, importance: rows, "encode of FIXED asks for importance"),
        (lambda: None, "encode of FIXED takes 0 arguments by position"),
        (lambda rows, importance, scale: rows, "encode of FIXED takes 3 arguments by position"),
        (5, "encode of FIXED is 5, expected a function: write encode.rows"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_when_the_codec_is_made(encode, message):
    with pytest.raises(CodecError, match=message):
        quantreg.PythonCodec(QTYPE, encode, decode)


def test_decode_and_score_are_checked_too():
    with pytest.raises(CodecError, match=r"decode of FIXED takes 2 arguments by position: write decode\(blocks\)"):
        quantreg.PythonCodec(QTYPE, None, lambda blocks, importance: blocks)
    with pytest.raises(CodecError, match="decode of FIXED is None, expected a function"):
        quantreg.PythonCodec(QTYPE, lambda rows: rows, None)
    with pytest.raises(CodecError, match=r"score of FIXED takes 1 arguments by position: write score\(rows, columns\)"):
        quantreg.PythonCodec(QTYPE, lambda rows, importance: rows, decode, lambda rows: rows)


@pytest.mark.parametrize(
    "encode",
    [
        lambda rows: rows,
        lambda rows, importance=None: rows,
        lambda rows, importance, extra=3: rows,
        lambda *rows: rows,
        lambda rows, *, parameters, context: rows,
        lambda rows, *, levels=8: rows,
        lambda rows, **options: rows,
        np.asarray,
    ],
)
def test_every_function_that_can_be_called_is_taken(encode):
    assert quantreg.PythonCodec(QTYPE, encode, decode).can_encode


# ---- types that nobody provides ----


def test_an_unknown_type_names_the_rule_or_the_file_type_that_asks_for_it(source):
    derive = quantreg.recipes.file_types["Q4_K_M"].derive

    def mine(candidate, chosen):
        return Choice("Q8_00", "mine")

    with pytest.raises(UnknownTypeError, match=r"ffn_down.weight: rule Row\(ffn_down; Q8_O\) of file type MINE"):
        quantreg.plan(source, derive("MINE", Row("ffn_down", None, "Q8_O")))
    with pytest.raises(UnknownTypeError, match="rule mine of file type MINE: unknown quant type 'Q8_00'"):
        quantreg.plan(source, derive("MINE", mine))
    with pytest.raises(UnknownTypeError, match="file type MINE: unknown quant type 'Q9'"):
        quantreg.plan(source, derive("MINE", type="Q9"))


@pytest.fixture
def architecture():
    """Register an architecture in place of llama."""
    plugins = []

    def add(**fields):
        new = quantreg.Architecture("llama", **fields)
        hook = quantreg.hookimpl(lambda register: register(new, replace=True))
        plugins.append(SimpleNamespace(register_architectures=hook))
        registry.register_plugin(plugins[-1])

    yield add
    for plugin in plugins:
        registry.unregister_plugin(plugin)


def test_an_unknown_type_names_the_architecture_that_asks_for_it(source, architecture):
    architecture(keep=(Keep(("ffn_down",), "precious", "F33"),))
    with pytest.raises(UnknownTypeError, match=r"keep \(precious\) of architecture llama: unknown quant type 'F33'"):
        quantreg.plan(source, "Q4_K_M")


def test_a_rule_of_an_architecture_that_fails_is_called_one_of_the_architecture(source, architecture):
    def mine(candidate, chosen):
        return candidate.nope

    architecture(rules=(mine,))
    with pytest.raises(PlanError, match="rule mine of architecture llama failed: AttributeError"):
        quantreg.plan(source, "Q4_K_M")


@pytest.mark.parametrize("broken", [lambda tensor: tensor.nope, lambda tensor: sys.exit(3)])
def test_a_condition_that_fails_names_the_line_of_the_plugin(source, architecture, broken):
    architecture(keep=(Keep(("ffn_down",), "precious", when=broken),))
    with pytest.raises(PlanError, match=r"keep of architecture llama failed: .*test_plugin_mistakes\.py:\d+\)$"):
        quantreg.plan(source, "Q4_K_M")


@pytest.mark.parametrize("field", ["prefixes", "ignored", "blocks"])
def test_a_string_where_an_architecture_has_a_tuple_is_refused(architecture, field):
    architecture(**{field: "layers"})
    assert getattr(quantreg.recipes.architectures["llama"], field) == ()  # the built-in one stays
    problems = [plugin.problem for plugin in registry.plugins if plugin.problem and "llama" in plugin.problem]
    assert any(f"{field} is not a tuple: write {field}=(..., )" in problem for problem in problems)


# ---- who is at fault ----


def test_a_hook_that_returns_nan_does_not_blame_the_model(source):
    class Plugin:
        @quantreg.hookimpl
        def score_importance(self, qtype, tensor, weights, columns):
            return weights * np.nan

    with registered(Plugin()), pytest.raises(NonFiniteError) as raised:
        quantreg.quantize_file(source, source.with_name("out.gguf"), "Q4_K_M")
    assert str(raised.value).endswith("return finite values of 0 and above")


def test_weights_that_are_nan_still_blame_the_model(source):
    error = NonFiniteError("blk.0.ffn_down.weight: row 0 holds NaN: repair or replace the weights")
    assert "the model is damaged" in str(with_advice(error, quantreg.plan(source, "Q4_K_M")))


@pytest.mark.parametrize("values", [None, {"b": [1]}, {"a": [1, 2]}, {"a": [np.nan]}])
def test_what_fit_returns_is_called_the_fault_of_fit(values):
    qtype = quantreg.QuantType(
        "FIXED_FIT",
        type_id=1404,
        block_size=8,
        type_size=8,
        codec=lambda: quantreg.PythonCodec(qtype, lambda rows: rows.astype(np.uint8), decode),
        parameters=quantreg.Parameters({"a": (1,)}, lambda samples, context: values),
    )
    with pytest.raises(quantreg.QuantregError, match=r"parameters of FIXED_FIT: .*: correct what fit returns$"):
        quantreg.fit(np.ones((2, 8), np.float32), qtype)


def test_a_hook_with_an_argument_that_it_does_not_get_says_what_it_gets():
    plugin = SimpleNamespace(register_types=quantreg.hookimpl(lambda reg: None))
    with pytest.raises(PluginError, match=r"register_types has the argument reg: write register_types\(register\)"):
        registry.register_plugin(plugin)
