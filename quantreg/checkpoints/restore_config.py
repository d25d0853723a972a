"""config.json of a GGUF model, by the inverses of the keys of a table."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from quantreg.checkpoints.checkpoint import Checkpoint
from quantreg.checkpoints.common import llama3_factors
from quantreg.checkpoints.config import Config
from quantreg.checkpoints.described import Described
from quantreg.errors import CheckpointError, QuantregError

__all__ = ["config_of", "differences"]

_IDS = ("bos", "eos", "padding")
_FREQUENCIES = "rope_freqs.weight"
_ASIDE = ("tensor_data_layout", "pooling_type")  # how the file is laid out, and what stands in files of its own


def config_of(model: Described, checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """The contents of config.json for a model that a table describes. ``dtype`` is that of its weights.

    Raises CheckpointError if something cannot be said there.
    """
    given = dict(checkpoint.restored)
    config: dict[str, Any] = {"architectures": [checkpoint.classes[0]], "model_type": checkpoint.model_type}
    constants = {name for name, value in checkpoint.defaults if not callable(value)}
    for key in checkpoint.keys:
        names = key.names
        if not names or key.new.startswith("=") or any(name in given for name in names):
            continue
        value = model.get(key.new)
        if value is None and names[0] in constants and key.default is None:
            config.setdefault(names[0], None)  # without it, the class would take its default
        elif value is not None:
            config[names[0]] = value
    if model.has("token_embd.weight"):
        config["vocab_size"] = model.shape("token_embd.weight")[0]
    config["tie_word_embeddings"] = not model.has("output.weight")
    for name in _IDS:
        found = model.metadata.get(f"tokenizer.ggml.{name}_token_id")
        config[f"{'pad' if name == 'padding' else name}_token_id"] = None if found is None else int(found)
    config |= {} if "rope_parameters" in given else _rope(model)
    config["torch_dtype"] = dtype
    for name, value in given.items():
        try:
            config[name] = value(model) if callable(value) else value
        except QuantregError:
            raise
        except Exception as error:  # what a table computes from metadata that nobody checked
            raise CheckpointError(f"cannot tell {name} of config.json: {error!r:.200}") from error
    return {name: value for name, value in config.items() if value is not ...}


def _rope(model: Described) -> dict[str, Any]:
    """What turns queries and keys, spelled as both transformers 4 and 5 read it."""
    found: dict[str, Any] = {}
    theta = model.get("rope.freq_base")
    if theta is not None:
        found["rope_theta"] = theta
    kind, factor = model.get("rope.scaling.type"), model.get("rope.scaling.factor")
    if kind == "linear" and factor is not None:
        found["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor is not None:
        beside = {
            "original_max_position_embeddings": "original_context_length",
            "extrapolation_factor": "yarn_ext_factor",
            "attention_factor": "yarn_attn_factor",
            "beta_fast": "yarn_beta_fast",
            "beta_slow": "yarn_beta_slow",
        }
        values = {name: model.get(f"rope.scaling.{key}") for name, key in beside.items()}
        values = {name: value for name, value in values.items() if value is not None}
        found["rope_scaling"] = {"rope_type": "yarn", "factor": factor, **values}
    elif model.has(_FREQUENCIES):
        found["rope_scaling"] = _llama3(model, 10000.0 if theta is None else theta)
    return found


def _llama3(model: Described, theta: float) -> dict[str, Any]:
    """The numbers of Llama 3.1 that give these factors of frequencies.

    Only "factor" can be read off. Of the others, several give the same factors: those that models have are tried.
    """
    wanted = np.array(model.values(_FREQUENCIES), np.float32)
    size = 2 * len(wanted)
    lengths = [model.get("rope.scaling.original_context_length"), 8192, *(1 << n for n in range(3, 21))]
    for length, (low, high) in product([n for n in lengths if n], ((1.0, 4.0), (1.0, 1.0), (1.0, 2.0), (1.0, 8.0))):
        scaling = {
            "rope_type": "llama3",
            "factor": float(wanted.max()),
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": length,
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            try:
                config = {"rope_theta": theta, "hidden_size": size, "num_attention_heads": 1, "rope_scaling": scaling}
                made = llama3_factors(Config(config))
            except ZeroDivisionError:
                continue
        if made is not None and np.allclose(made.values, wanted, rtol=2e-6, atol=0):
            return scaling
    raise CheckpointError(
        f"{_FREQUENCIES} holds factors of frequencies that no numbers of Llama 3.1 give, and config.json has no place "
        "for them"
    )


def differences(model: Described, made: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the metadata that a folder would be converted to have otherwise than the model.

    Returns keys whose values differ, and keys of the model that a folder cannot say.
    """
    start = f"{model.architecture}."
    wrong, lost = [], []
    for key in model.metadata:
        if not key.startswith(start) or key.removeprefix(start) in _ASIDE:
            continue
        if key not in made:
            lost.append(key)
        elif not _same(model.metadata[key], made[key]):
            wrong.append(f"{key} is {model.metadata[key]!r:.60} and would become {made[key]!r:.60}")
    return wrong, lost


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        whole = [each if isinstance(each, list) else None for each in (one, other)]
        n = max(len(each) for each in whole if each is not None)
        first, second = (
            each if each is not None else [value] * n for each, value in zip(whole, (one, other), strict=True)
        )
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(one, float) or isinstance(other, float):
        return bool(np.float32(one) == np.float32(other))
    return bool(one == other)
