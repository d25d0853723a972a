"""Declarations of fitted parameters: shapes and functions that are wrong, and functions that change what they get."""

from contextlib import contextmanager

import numpy as np
import pytest
import toy
from entries import registered

import quantreg
from quantreg import CodecError, PluginError

NAME = "blk.0.attn_q.weight"
X = np.random.default_rng(7).standard_normal((48, 64), np.float32)


@contextmanager
def installed(fit, *, shapes=None, encode=None):
    """A plugin with the type FIT8, which has parameters as the test wants them."""
    encode = encode or (lambda rows, *, parameters: np.clip(rows * 20 + 128, 0, 255).astype(np.uint8))
    qtype = quantreg.QuantType(
        "FIT8",
        type_id=1308,
        block_size=1,
        type_size=1,
        codec=lambda: quantreg.PythonCodec(qtype, encode, lambda data, *, parameters: data.astype(np.float32)),
        parameters=quantreg.Parameters(shapes or {"p": (1,)}, fit),
    )
    with registered(toy.Plugin(qtype)):
        yield


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([("p", (1,))], r"shapes of Parameters are \[.*: give the name and shape of each parameter"),
        ({"p": 1}, "give the name and shape of each parameter"),
        ({"p": (1.5,)}, "give the name and shape of each parameter"),
        ({}, "give the name and shape of each parameter"),
        ({"": (1,)}, "a parameter has the name '': choose another"),
        ({"a b": (1,)}, "a parameter has the name 'a b': choose another"),
        ({"weight": (1,)}, "a parameter has the name 'weight': choose another"),
        ({"p": (1, 1, 1, 1, 2)}, "at most four dimensions"),
        ({"p": (-1,)}, "at most four dimensions of 0 and above"),
    ],
)
def test_shapes_that_are_none_are_refused_in_both_forms(shapes, message):
    with pytest.raises(PluginError, match=message):
        quantreg.Parameters(shapes, lambda samples, context: {})
    with (
        installed(lambda samples, context: {}, shapes=lambda context: shapes),
        pytest.raises(PluginError, match=message),
    ):
        quantreg.fit(X, "FIT8", tensor=NAME)


def test_a_function_shapes_that_fails_is_named():
    with (
        installed(lambda samples, context: {}, shapes=lambda context: 1 / 0),
        pytest.raises(PluginError, match="shapes of Parameters failed: ZeroDivisionError"),
    ):
        quantreg.fit(X, "FIT8", tensor=NAME)


def test_only_parameters_that_are_not_required_may_say_where_they_apply():
    with pytest.raises(PluginError, match="add required=False"):
        quantreg.Parameters({"p": (1,)}, lambda samples, context: {}, applies=lambda context, names: True)


def test_a_plugin_cannot_change_the_arrays_of_the_caller():
    x, importance = X.copy(), np.ones(64, np.float32)

    def wipe(array):
        array[...] = 0
        return {"p": [1]}

    for target in ("rows", "importance"):

        def fit(samples, context, target=target):
            return wipe(getattr(next(iter(samples)), target))

        with (
            installed(fit),
            pytest.raises(CodecError, match="fit of FIT8 failed: ValueError: assignment destination is read-only"),
        ):
            quantreg.fit(x, "FIT8", importance)
    parameters = {"p": np.float32([5])}
    with (
        installed(lambda s, c: {}, encode=lambda rows, *, parameters: wipe(parameters["p"])),
        pytest.raises(CodecError, match="assignment destination is read-only"),
    ):
        quantreg.quantize(x, "FIT8", parameters=parameters)
    assert np.array_equal(x, X)
    assert importance.all()
    assert parameters["p"] == 5
