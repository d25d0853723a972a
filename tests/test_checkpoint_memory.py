"""Memory does not grow with a published model: tensors are read piece by piece, whatever is done to them."""

import json
import struct
import subprocess
import sys
from math import prod

import pytest
from checkpoints.tokenizers import write_tokenizer

MIB = 1 << 20
# The stages print what the process holds: its peak, or the memory that no file stands behind.
PROGRAM = """
import sys
import quantreg

def peak(name="VmHWM"):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith(name))

small, large, out = sys.argv[1:]
quantreg.quantize_file(small, out, "Q8_0", threads=2, force=True)
print(peak())
quantreg.quantize_file(large, out, "Q8_0", threads=2, force=True)
print(peak())
with quantreg.open(large) as model:
    for name in model:
        model[name].data.sum()
print(peak("RssAnon"))
"""


def sparse(folder, config, tensors):
    """A folder whose weights are holes in a sparse file."""
    folder.mkdir()
    header, position = {}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + 2 * prod(shape)]}
        position += 2 * prod(shape)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer("spm" if config["model_type"] == "llama" else "gpt-2", folder)
    return folder


def llama(folder, heads):
    """A Llama with a queries' matrix of heads x 128 rows, which are put into another order, and two experts."""
    width, rows, ff = 256, heads * 128, heads * 256
    layer = "model.layers.0."
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "llama", "hidden_size": width, "head_dim": 128,
        "num_attention_heads": heads, "num_hidden_layers": 1, "intermediate_size": ff, "num_local_experts": 2,
        "num_key_value_heads": heads, "num_experts_per_tok": 1, "vocab_size": 96, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    tensors = {
        "model.embed_tokens.weight": (96, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (96, width),
        f"{layer}input_layernorm.weight": (width,),
        f"{layer}post_attention_layernorm.weight": (width,),
        f"{layer}self_attn.q_proj.weight": (rows, width),
        f"{layer}self_attn.k_proj.weight": (rows, width),
        f"{layer}self_attn.v_proj.weight": (rows, width),
        f"{layer}self_attn.o_proj.weight": (width, rows),
        f"{layer}block_sparse_moe.gate.weight": (2, width),
    }
    for expert in range(2):
        for name, shape in (("w1", (ff, width)), ("w2", (width, ff)), ("w3", (ff, width))):
            tensors[f"{layer}block_sparse_moe.experts.{expert}.{name}.weight"] = shape
    return sparse(folder, config, tensors)


def gpt2(folder, width):
    """A GPT-2, whose matrices are stored with inputs as rows."""
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": width, "n_layer": 1, "n_head": 4,
        "n_ctx": 64, "n_positions": 64, "layer_norm_epsilon": 1e-5, "vocab_size": 96,
    }  # fmt: skip
    tensors = {"wte.weight": (96, width), "wpe.weight": (64, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    for name, shape in {
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width), "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width), "attn.c_proj.bias": (width,),
        "mlp.c_fc.weight": (width, 4 * width), "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (4 * width, width), "mlp.c_proj.bias": (width,),
    }.items():  # fmt: skip
        tensors[f"h.0.{name}"] = shape
    return sparse(folder, config, tensors)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of a process")
@pytest.mark.parametrize(("write", "small", "large"), [(llama, 2, 144), (gpt2, 128, 2560)])
def test_memory_is_bounded_for_tensors_that_are_put_into_another_order(tmp_path, write, small, large):
    folders = [write(tmp_path / str(size), size) for size in (small, large)]
    matrices = (folders[1] / "model.safetensors").stat().st_size // MIB
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *map(str, folders), str(tmp_path / "out.gguf")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    little, much, opened = map(int, done.stdout.split())
    assert matrices > 140
    assert much - little < 40
    assert opened < little + 30


BACK = """
import sys, threading, time
import quantreg

small, large, out = sys.argv[1:]
most, stop = [0], threading.Event()

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("RssAnon"))

def watch():
    while not stop.is_set():
        most[0] = max(most[0], anonymous())
        time.sleep(0.002)

for name in (small, large):
    quantreg.convert(name, name + ".gguf", threads=2)
quantreg.export(small + ".gguf", out + "-small", threads=2)
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
quantreg.export(large + ".gguf", out + "-large", threads=2)
stop.set()
thread.join()
print(before, most[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory of a process")
@pytest.mark.parametrize(("write", "small", "large"), [(llama, 2, 144), (gpt2, 128, 2560)])
def test_memory_is_bounded_on_the_way_back_to_a_folder(tmp_path, write, small, large):
    """Tensors that are put into another order are mapped from the output, so their memory can be written out."""
    folders = [write(tmp_path / str(size), size) for size in (small, large)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", BACK, *map(str, folders), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, most = map(int, done.stdout.split())
    assert most - before < 60
    assert (tmp_path / "out-large" / "model.safetensors").stat().st_size > 140 * MIB
