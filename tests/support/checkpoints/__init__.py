"""Small checkpoints with random weights, as folders, from what ``tests/golden/checkpoints`` says of each.

A golden file holds config.json, the kind of tokenizer, and the name, dtype and shape of each tensor of the
checkpoint. The weights depend on the names of the model and of the tensor alone, and are the same on every machine.
Nothing here needs quantreg, torch or transformers: ``make.py`` gives the same folders to the reference.
"""

import json
import re
import struct
from pathlib import Path

import numpy as np
from steady import integers, random

from checkpoints.tokenizers import write_tokenizer

__all__ = ["GOLDEN", "TOKENS", "load", "names", "patterns", "stated", "token_ids", "write_folder"]

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoints"
TOKENS = 12  # how many the logits are of


def names():
    """The names of all goldens."""
    return sorted(path.stem for path in GOLDEN.glob("*.json"))


def load(name):
    """What the golden of this name says: a dict, and the logits of the reference, float32 (tokens, vocabulary)."""
    return json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npy")


def token_ids(name, below):
    """The ids that the logits are of."""
    return [int(i) for i in integers(f"{name} tokens", below, (TOKENS,))]


def patterns(tensors):
    """{dtype: {name with {} for the layer: [shape, layers]}} of {name: (dtype, shape)}; `stated` undoes it."""
    found = {}
    for name, (dtype, shape) in sorted(tensors.items()):
        layer = re.search(r"(?<=\.)\d+(?=\.)", name)
        key = f"{name[: layer.start()]}{{}}{name[layer.end() :]}" if layer else name
        for spelling in (key, f"{key}#{name}"):  # a tensor of another shape in some layer has its name in the key
            entry = found.setdefault(dtype, {}).setdefault(spelling, [list(shape), []])
            if entry[0] == list(shape):
                entry[1] += [int(layer[0])] if layer else []
                break
    return found


def stated(found):
    """{name: (dtype, shape)} of what `patterns` returns."""
    pairs = ((dtype, key.partition("#")[0], entry) for dtype, of in found.items() for key, entry in of.items())
    return {
        key.replace("{}", str(layer)): (dtype, tuple(shape))
        for dtype, key, (shape, layers) in pairs
        for layer in layers or [0]
    }


def write_folder(name, golden, folder):
    """Write the folder: config.json, tokenizer, other files, and weights in as many shards as the golden says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(golden["config"], indent=1))
    write_tokenizer(golden["tokenizer"], folder)
    for path, text in golden.get("files", {}).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(text))
    tensors = stated(golden["checkpoint"])
    made = {tensor: (dtype, _weights(name, tensor, dtype, shape, golden)) for tensor, (dtype, shape) in tensors.items()}
    shards = golden.get("shards", 1)
    if shards == 1:
        _write(folder / "model.safetensors", made)
        return
    order, where = list(made), {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = order[k * len(order) // shards : (k + 1) * len(order) // shards]
        _write(folder / file, {tensor: made[tensor] for tensor in part})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(x.nbytes for _, x in made.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _weights(name, tensor, dtype, shape, golden):
    """The numbers of a tensor: norms around 1 (or 0), small biases, matrices that keep the size of what they get."""
    seed = f"{name} {tensor}"
    if dtype == "U8":  # blocks and scales of MXFP4
        low, high = (118, 122) if tensor.endswith("_scales") else (0, 256)
        return (low + integers(seed, high - low, shape)).astype(np.uint8)
    if dtype == "I64":  # positions
        return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    x = random(seed, shape)
    lower = tensor.lower()
    if tensor.endswith("bias"):
        x *= np.float32(0.25)
    elif len(shape) < 2 or "norm" in lower.rsplit(".", 2)[-2]:
        x = np.float32(golden.get("norm", 1)) + x * np.float32(0.25)
    elif not re.search(r"embed|wte|wpe|tok_", lower):
        x *= np.float32(1.4 / shape[-1] ** 0.5)
    x = x.astype(np.float32)
    if dtype == "F16":
        return x.astype(np.float16)
    return (x.view(np.uint32) >> np.uint32(16)).astype(np.uint16) if dtype == "BF16" else x


def _write(path, tensors):
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, x) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [position, position + x.nbytes]}
        position += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, x in tensors.values():
            file.write(x.tobytes())
