"""Measure the way from a published folder to a quantized file: in one command, and by way of llama.cpp's converter."""

import json
import os
import struct
import sys
from math import prod
from pathlib import Path
from statistics import median

import numpy as np

import quantreg
from bench import targets
from bench.files import CommandError, folder, quantreg_command, spawn
from bench.model import TILE, shapes, tile_of, write_tiles

__all__ = ["measure", "write_folder"]

FILE_TYPE = "Q4_K_M"
SHARDS = 2
PYTHON, CONVERTER, QUANTIZER = "QUANTREG_CONVERT_PYTHON", "QUANTREG_CONVERT_HF", "QUANTREG_LLAMA_QUANTIZE"
MISSING = (
    f"oracle missing: {PYTHON}=/path/to/python with torch and transformers, {CONVERTER}=/path/to/convert_hf_to_gguf.py "
    f"and {QUANTIZER}=/path/to/llama-quantize of the pinned llama.cpp"
)


def _tensors(params):
    """Return the shape of each tensor of a Llama, in NumPy order and in the order of the files."""
    width, ff, layers, words = shapes(params)
    found = {"model.embed_tokens.weight": (words, width)}
    for i in range(layers):
        found |= {
            f"model.layers.{i}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (width,),
                "mlp.down_proj": (width, ff),
                "mlp.gate_proj": (ff, width),
                "mlp.up_proj": (ff, width),
                "post_attention_layernorm": (width,),
                "self_attn.k_proj": (width // 4, width),
                "self_attn.o_proj": (width, width),
                "self_attn.q_proj": (width, width),
                "self_attn.v_proj": (width // 4, width),
            }.items()
        }
    return found | {"model.norm.weight": (width,), "lm_head.weight": (words, width)}


def write_folder(path, params):
    """Write a Llama with about this many parameters as it would be published, in F16. Return the exact number."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    width, ff, layers, words = shapes(params)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": ff,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 256,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": words,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (path / "config.json").write_text(json.dumps(config, indent=1))
    _write_tokenizer(path, words)
    tensors = _tensors(params)
    names, tile, where = list(tensors), tile_of(), {}
    for number in range(SHARDS):
        part = names[number * len(names) // SHARDS : (number + 1) * len(names) // SHARDS]
        file = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        _write_shard(path / file, {name: tensors[name] for name in part}, tile, names.index(part[0]))
        where |= dict.fromkeys(part, file)
    total = sum(map(prod, tensors.values()))
    index = {"metadata": {"total_size": 2 * total}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _write_shard(path, tensors, tile, first):
    header, position = {}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [position, position + 2 * prod(shape)]}
        position += 2 * prod(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, shape in enumerate(tensors.values(), first):
            if len(shape) == 1:
                file.write((1 + tile[: shape[0]].astype(np.float32)).astype(np.float16).data)
            else:
                write_tiles(file, tile, prod(shape), start=index * 999_983 % TILE)


def _write_tokenizer(path, words):
    """Write tokenizer.model: a token for each byte, and words that nobody uses."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(f"word{n}", -float(n), 1) for n in range(words - len(pieces))]
    data = b"".join(
        _message(1, _message(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, kind))
        for text, score, kind in pieces
    )
    data += _message(2, _number(3, 2) + _number(4, words) + _number(35, 1) + _number(40, 0) + _number(41, 1))
    data += _message(3, _number(3, 1) + _number(4, 0) + _number(5, 1))
    (path / "tokenizer.model").write_bytes(data)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def _message(field, data):
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _number(field, value):
    return _varint(field << 3) + _varint(value)


def _varint(n):
    low = bytes([n & 0x7F | (0x80 if n > 0x7F else 0)])
    return low + _varint(n >> 7) if n > 0x7F else low


def measure(params, workdir=None, rounds=1, threads=2, tell=print):
    """Measure wall time, peak memory and bytes written, and compare the tensors of the two files.

    Returns {"params", "source_bytes", "rows", "notes", "failures"}.
    """
    python, converter, quantizer = (os.environ.get(name) for name in (PYTHON, CONVERTER, QUANTIZER))
    theirs = bool(python and converter and quantizer)
    notes, failures = [] if theirs else [MISSING], []
    with folder(workdir) as work:
        source, log = work / "Synthetic-Llama", str(work / "log")
        ours, between, other = (str(work / name) for name in ("ours.gguf", "f16.gguf", "theirs.gguf"))
        tell("writing the folder")
        count = write_folder(source, params)
        ways = {"quantreg quantize FOLDER": [quantreg_command(str(source), ours, FILE_TYPE, threads)]}
        if theirs:
            ways["convert_hf_to_gguf.py, llama-quantize"] = [
                [python, converter, str(source), "--outfile", between, "--outtype", "f16"],
                [quantizer, between, other, FILE_TYPE, str(threads)],
            ]
        runs = {way: [] for way in ways}
        for _ in range(rounds):
            for way, commands in ways.items():
                tell(way)
                os.sync()  # so that this run does not pay for writes of the previous one
                try:
                    runs[way].append([spawn(command, threads, log) for command in commands])
                except CommandError as error:
                    failures.append(str(error))
        rows = [_row(way, steps) for way, steps in runs.items() if steps]
        written = {"quantreg quantize FOLDER": (ours,), "convert_hf_to_gguf.py, llama-quantize": (between, other)}
        for row in rows:
            row["GB written"] = sum(map(os.path.getsize, written[row["way"]])) / 1e9
        if len(rows) == 2:
            same = quantreg.hash_tensors(ours) == quantreg.hash_tensors(other)
            rows[0] |= {
                "x faster": rows[1]["s"] / rows[0]["s"],
                "x less memory": rows[1]["peak MiB"] / rows[0]["peak MiB"],
                "same tensors": same,
            }
            rows[1] |= dict.fromkeys(("x faster", "x less memory", "same tensors"))
            goals = rows[0]["x faster"] >= targets.CONVERT_FASTER, rows[0]["x less memory"] >= targets.CONVERT_MEMORY
            notes.append(
                f"goals: {targets.CONVERT_FASTER} times faster ({'met' if goals[0] else 'missed'}) and a "
                f"{targets.CONVERT_MEMORY}th of the memory ({'met' if goals[1] else 'missed'})"
            )
            if not same:
                failures.append("the tensors of the two files differ")
        size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    return {"params": count, "source_bytes": size, "rows": rows, "notes": notes, "failures": failures}


def _row(way, runs):
    """One row: the median time of all steps, and the largest peak of any."""
    return {
        "way": way,
        "s": median(sum(step["seconds"] for step in steps) for steps in runs),
        "cpu s": median(sum(step["user"] + step["system"] for step in steps) for steps in runs),
        "peak MiB": round(max(step["peak_mib"] for steps in runs for step in steps)),
    }


if __name__ == "__main__":  # write the folder alone: python -m bench.published FOLDER PARAMS
    print(write_folder(sys.argv[1], float(sys.argv[2])))
