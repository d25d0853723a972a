"""A model with damaged tensors or metadata is refused when it is opened, with an error that names what is wrong."""

import warnings

import numpy as np
import pytest
import small_models

import quantreg

MODELS = {}  # architecture -> the first of its small models that has few layers
for _name in small_models.names():
    _small = small_models.build(_name)
    if _small.layers < 20:
        MODELS.setdefault(_small.architecture, _name)

# Not computed: a layer that predicts further tokens, and one that passes everything on.
UNUSED = {"glm4moe": ("blk.3.",), "deci": ("blk.3.",)}
CHOICES = ("attn_qkv", "attn_q_a", "attn_k_b", "attn_output", "ffn_latent", "ssm_")  # say how a layer is computed
VOCABULARY = ("token_embd.weight", "per_layer_token_embd.weight")  # decide how many tokens there are


def tensor(name, values):
    values = np.ascontiguousarray(values, np.float32)
    return quantreg.QuantizedTensor(name, values.shape, "F32", values.view(np.uint8).reshape(*values.shape[:-1], -1))


def damaged(values):
    """Arrays of other shapes, by what happened to them."""
    yield "a column less", values[..., :-1]
    yield "a column more", np.concatenate([values, values[..., :1]], axis=-1)
    if values.ndim > 1:
        yield "a row less", values[..., :-1, :]
        yield "one dimension", values.reshape(-1)
    if values.ndim > 2:
        yield "a matrix less", values[:-1]
        yield "a matrix more", np.concatenate([values, values[:1]])


def kinds(names):
    """Each tensor whose name is not that of an earlier one but for the number of the layer."""
    seen = set()
    for name in names:
        kind = name.split(".", 2)[2] if name.startswith("blk.") else name
        if kind not in seen:
            seen.add(kind)
            yield name


def opened(metadata, tensors):
    """The error with which the model is refused, or None if it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors that an optional part leaves without use
            model = quantreg.Model(metadata, tensors, threads=1)
    except (quantreg.ModelError, quantreg.ShapeError) as error:
        return str(error)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.states([1, 2, 3]).shape == (3, model.width)
    return None


@pytest.fixture(params=sorted(MODELS))
def model(request, tmp_path):
    """The small model of an architecture, its metadata and its tensors."""
    small = small_models.build(MODELS[request.param])
    small_models.write(small, tmp_path / "small.gguf")
    with quantreg.open(tmp_path / "small.gguf") as file:
        yield small, dict(file.metadata), {name: file[name] for name in file}


def test_a_tensor_of_another_shape_is_refused_with_its_name(model):
    small, metadata, tensors = model
    for name in kinds(tensors):
        if name.startswith((*UNUSED.get(small.architecture, ()), "token_types.")):
            continue
        for what, values in damaged(small.tensors[name]):
            if not values.size or (name in VOCABULARY and what == "a row less"):
                continue
            if small.architecture == "kimi-linear" and "ssm_" in name and what == "one dimension":
                continue  # files have its numbers in several layouts
            error = opened(metadata, tensors | {name: tensor(name, values)})
            assert error, f"{name} with {what} runs"


def test_a_tensor_that_is_missing_is_optional_or_refused_with_its_name(model):
    """If its presence says how a layer is computed, what is missing may be something else."""
    _, metadata, tensors = model
    needed = 0
    for name in kinds(tensors):
        error = opened(metadata, {other: tensors[other] for other in tensors if other != name})
        if error is not None:
            needed += 1
            assert name in error or any(part in name for part in CHOICES), f"without {name}: {error}"
    assert needed >= 5


def test_a_key_that_is_missing_or_holds_something_else_is_refused_or_makes_another_model(model):
    """Whatever it holds, no other error than one of a model comes out."""
    small, metadata, tensors = model
    for key in [key for key in metadata if key.startswith(f"{small.architecture}.")]:
        opened({other: metadata[other] for other in metadata if other != key}, tensors)
        for value in ("x", -1, 0, 0.5, [1], [], True, 10**9, float("nan")):
            if not (isinstance(metadata[key], str) and value == "x"):
                opened(metadata | {key: value}, tensors)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("block_count", None, "llama.block_count is missing"),
        ("block_count", 10**9, "the model has 1000000000 layers by its metadata"),
        ("block_count", 3, "the tensor blk.2.attn_norm.weight is missing"),
        ("context_length", float("nan"), "llama.context_length is nan: expected a number"),
        ("embedding_length", 32, "the tensor token_embd.weight has shape (96, 64): expected rows of 32 values"),
        ("embedding_length", 64.5, "llama.embedding_length holds 64.5: expected a whole number"),
        ("attention.head_count", "four", "llama.attention.head_count is 'four': expected a value for all layers"),
        ("attention.head_count", [4], "llama.attention.head_count holds 1 values, but the model has 2 layers"),
        ("attention.head_count_kv", [2, -2], "llama.attention.head_count_kv holds -2: expected a whole number"),
        ("attention.head_count_kv", 3, "the tensor blk.0.attn_k.weight has 32 rows: expected 48"),
        ("attention.layer_norm_rms_epsilon", "x", "layer_norm_rms_epsilon is 'x': expected a number"),
        ("rope.dimension_count", 10**9, "1000000000 values of a head rotate, but a head has 16"),
        ("rope.dimension_count", 7, "which must be even"),
    ],
)
def test_the_error_says_what_is_wrong(key, value, error, tmp_path):
    small = small_models.build("llama")
    small.metadata.pop(f"llama.{key}", None)
    tensors = {name: tensor(name, values) for name, values in small.tensors.items()}
    metadata = small.metadata if value is None else small.metadata | {f"llama.{key}": value}
    assert error in opened(metadata, tensors)
