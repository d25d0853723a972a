"""The conformance kit on types that fit parameters to a tensor or a model."""

import types

import numpy as np
import pytest
from documents import file_in

import quantreg
from quantreg.registry import registry
from quantreg.testing import check_codec


@pytest.fixture
def cb3():
    """The type of docs/fitted.md, with a codebook per tensor."""
    plugin = types.ModuleType("cb3")
    exec(file_in("fitted.md", "cb3.py"), plugin.__dict__)
    registry.register_plugin(plugin)
    yield plugin.CB3
    registry.unregister_plugin(plugin)


def test_the_kit_checks_a_type_with_a_codebook_per_tensor(cb3, tmp_path):
    report = check_codec("CB3", golden=tmp_path / "cb3.npz", update_golden=True)
    passed = {outcome.check for outcome in report.outcomes if outcome.status == "passed"}
    assert {"zero_rows", "constant_rows", "error", "slabs", "threads", "golden", "gguf_file"} <= passed
    assert check_codec("CB3", golden=tmp_path / "cb3.npz").ok


@pytest.fixture
def model_type():
    """Register a type with one codebook per model; its functions can be replaced."""

    def fit(samples, context):
        top = max((np.abs(sample.rows).max() for sample in samples), default=0)
        return {"levels": np.linspace(-top, top, 255)}

    def encode(rows, importance, *, parameters):
        nearest = np.abs(rows[..., None] - parameters["levels"]).argmin(axis=2)
        if importance is not None:
            nearest = nearest + (importance > 1e5)  # it matters, though not for sensible statistics
        return nearest.astype(np.uint8)

    def decode(blocks, *, parameters):
        return np.append(parameters["levels"], 0).astype(np.float32)[blocks]

    plugin = types.ModuleType("model_type")
    plugin.parts = {"encode": encode, "decode": decode}

    def register_types(register):
        parameters = quantreg.Parameters({"levels": (255,)}, fit, scope="model")
        register(
            quantreg.QuantType(
                "PER_MODEL",
                type_id=1401,
                block_size=8,
                type_size=8,
                codec=lambda: quantreg.PythonCodec(quantreg.types["PER_MODEL"], **plugin.parts),
                parameters=parameters,
            )
        )

    plugin.register_types = quantreg.hookimpl(register_types)
    registry.register_plugin(plugin)
    yield plugin
    registry.unregister_plugin(plugin)


def test_the_kit_finds_what_is_wrong_with_a_type_that_fits_parameters(model_type):
    report = check_codec("PER_MODEL", raises=False)
    assert [outcome.check for outcome in report.outcomes if outcome.status == "failed"] == ["importance_helps"]


def test_the_kit_says_that_a_codec_without_bind_cannot_have_parameters(model_type):
    class NoBind(quantreg.PythonCodec):
        bind = None

    qtype = quantreg.QuantType(
        "NO_BIND",
        type_id=1402,
        block_size=8,
        type_size=8,
        codec=lambda: NoBind(qtype, lambda rows: rows.astype(np.uint8), lambda blocks: blocks.astype(np.float32)),
        parameters=quantreg.Parameters({"scale": (1,)}, lambda samples, context: {"scale": [1]}),
    )
    report = check_codec(qtype, raises=False)
    assert any("has no method bind(parameters, context)" in outcome.message for outcome in report.outcomes)
