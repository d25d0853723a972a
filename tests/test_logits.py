"""A model's logits are those that the reference computes: see golden/logits/make.py."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import small_models
from entries import installed

import quantreg
from quantreg.inference.feed_forward import ACTIVATIONS, gelu

GOLDEN = Path(__file__).parent / "golden" / "logits"
NAMES = small_models.names()
ARCHITECTURE_OF = {name: small_models.build(name).architecture for name in NAMES}


def load(name, folder, **options):
    small, path = small_models.build(name), folder / f"{name}.gguf"
    if not path.exists():
        small_models.write(small, path)
    return quantreg.load(path, **options), small_models.token_ids(name, small.vocab)


def difference(found, expected):
    """The largest difference, as a share of the deviation of what is expected."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


def results(model, ids, cache=None):
    """Logits, or the states of a model that predicts no tokens."""
    return model.logits(ids, cache) if model.graph.generates else model.states(ids, cache)


def test_each_golden_file_belongs_to_a_model_and_each_model_has_one():
    assert sorted(path.stem for path in GOLDEN.glob("*.npy")) == NAMES


def table_gelu(x):
    """GELU as the reference has it on CPUs, from a table of float16, in place: argument and value are rounded."""
    with np.errstate(over="ignore"):
        rounded = gelu(x.astype(np.float16).astype(np.float32)).astype(np.float16)
    x[...] = np.where(x <= -10, 0, np.where(x >= 10, x, rounded))
    return x


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_reference(name, tmp_path, monkeypatch):
    model, ids = load(name, tmp_path)
    expected = np.load(GOLDEN / f"{name}.npy")
    with model:
        exact = difference(results(model, ids), expected)
        if model.graph.activation == "gelu":
            assert exact <= 3e-3
            monkeypatch.setitem(ACTIVATIONS, "gelu", table_gelu)  # what is left is not the table
            assert difference(results(model, ids), expected) <= min(1e-3, exact)
        else:
            assert exact <= 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if ARCHITECTURE_OF[name] not in small_models.ENCODERS])
def test_tokens_one_by_one_give_the_same_logits_as_all_at_once(name, tmp_path):
    model, ids = load(name, tmp_path)
    with model:
        expected, cache = results(model, ids), model.cache(len(ids))
        parts = [ids[:5], ids[5:12], *([each] for each in ids[12:])]
        found = np.concatenate([results(model, part, cache) for part in parts])
        assert cache.length == len(ids)
    assert difference(found, expected) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_several_sequences_at_once_do_not_see_each_other(name, tmp_path):
    model, ids = load(name, tmp_path)
    rows = np.array([ids[:8], ids[8:16], ids[16:]])
    with model:
        found = results(model, rows)
        expected = np.stack([results(model, row) for row in rows])
    assert difference(found, expected) <= 1e-4


def test_a_model_whose_tokens_see_later_ones_has_no_cache(tmp_path):
    model, _ = load("bert", tmp_path)
    with model, pytest.raises(quantreg.ModelError, match=r"bert.*see later ones.*without a cache"):
        model.cache()


@pytest.mark.parametrize("name", ["llama-experts", "qwen2moe", "olmo3"])
def test_logits_do_not_depend_on_the_number_of_threads(name, tmp_path):
    one, ids = load(name, tmp_path, threads=1)
    three, _ = load(name, tmp_path, threads=3)
    with one, three:
        np.testing.assert_array_equal(one.logits(ids), three.logits(ids))


def fields(graph):
    """The entries of a table that are not those of llama: {name: llama's}."""
    default = quantreg.Graph()
    pairs = ((field.name, getattr(default, field.name)) for field in dataclasses.fields(graph))
    return {name: value for name, value in pairs if getattr(graph, name) != value}


UNSEEN = {
    "llama4": {"windows", "chunked"},  # it has chunks of 8192 tokens: test_attention.py checks chunks
    "olmo2": {"window_base"},  # the reference reads the key and does not use it: test_checkpoints_golden.py checks it
}


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURE_OF.values())))
def test_each_entry_of_a_table_matters_to_a_small_model(architecture, tmp_path):
    """Without this, an entry that the reference's logits do not check would not be noticed."""
    unchecked = None
    for name in (name for name in NAMES if ARCHITECTURE_OF[name] == architecture):
        model, ids = load(name, tmp_path)
        expected, known = np.load(GOLDEN / f"{name}.npy"), model.architecture
        unchecked = fields(known.graph) if unchecked is None else unchecked
        for field, value in list(unchecked.items()):
            other = dataclasses.replace(known, graph=dataclasses.replace(known.graph, **{field: value}))
            hook = {"register_architectures": lambda register, other=other: register(other, replace=True)}
            with installed(**hook), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a tensor is not used now; the logits must show it
                try:
                    found = results(quantreg.Model(model.metadata, model.tensors), ids)
                except (quantreg.ModelError, quantreg.ShapeError, ValueError):
                    del unchecked[field]
                    continue
            if found.shape != expected.shape or difference(found, expected) > 0.02:
                del unchecked[field]
    assert not unchecked.keys() - UNSEEN.get(architecture, set())
