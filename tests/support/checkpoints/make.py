"""Write the goldens of ``tests/golden/checkpoints`` with the reference converter and with transformers.

Usage: PYTHONPATH=tests/support python -m checkpoints.make LLAMA_CPP [NAME...]

It needs transformers==5.24.0, torch==2.13.0 and sentencepiece. LLAMA_CPP is the source tree of the pinned llama.cpp.
transformers says how the tensors of each model are named and shaped, reads the folder that `write_folder` writes, and
computes logits; the converter converts it to each of its types.
"""

import contextlib
import hashlib
import io
import json
import struct
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers

from checkpoints import GOLDEN, patterns, token_ids, write_folder
from checkpoints.models import MODELS
from checkpoints.tokenizers import SIZE, VOCABULARY

TYPES = ("f32", "f16", "bf16", "q8_0", "auto")
MAIN = "f32"  # the type of which the golden lists each tensor; of the others it has one hash of all


def main():
    source, *names = sys.argv[1:]
    sys.path.insert(0, source)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    converter = reference(source)
    for name in names or sorted(MODELS):
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            golden, logits = make(name, MODELS[name], Path(scratch), converter)
        compact = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
        (GOLDEN / f"{name}.json").write_text(compact.replace('],"', '],\n"').replace('},"', '},\n"') + "\n")
        np.save(GOLDEN / f"{name}.npy", logits)
        print(name, len(golden["tensors"]), "tensors, logits", logits.shape, "deviation", logits.std(), flush=True)


def make(name, model, scratch, converter):
    config = {
        "architectures": [model["class"]],
        "model_type": model["type"],
        "vocab_size": VOCABULARY,
    }
    config |= model["config"]
    golden = {"config": {key: value for key, value in config.items() if value is not ...}}
    golden |= {"tokenizer": model.get("tokenizer", "qwen2")}
    golden |= {key: model[key] for key in ("files", "shards", "norm") if key in model}
    folder = scratch / "checkpoint"
    golden["checkpoint"] = patterns(shapes(model, golden, scratch))
    write_folder(name, golden, folder)
    logits = run(name, model, folder)
    golden["types"] = {}
    for kind in TYPES:
        tensors, metadata = converter(folder, scratch / f"{kind}.gguf", kind, golden["tokenizer"], model)
        lines = "".join(f"{tensor} {' '.join(map(str, entry))}\n" for tensor, entry in sorted(tensors.items()))
        golden["types"][kind] = [
            metadata.get("general.file_type", [None, None])[1],
            hashlib.sha256(lines.encode()).hexdigest(),
        ]
        if kind == MAIN:
            golden |= {"metadata": metadata, "tensors": tensors}
    return golden, logits


def shapes(model, golden, scratch):
    """{name: (dtype, shape)} of the tensors that transformers saves for such a model."""
    blank = scratch / "blank"
    blank.mkdir()
    (blank / "config.json").write_text(json.dumps(golden["config"]))
    config = transformers.AutoConfig.from_pretrained(blank)
    built = getattr(transformers, model["class"])(config)
    built.save_pretrained(blank / "saved")
    with (blank / "saved" / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    header.pop("__metadata__", None)
    found = {tensor: (model.get("dtype", "F32"), tuple(entry["shape"])) for tensor, entry in header.items()}
    return model.get("tensors", lambda found: found)(found)


def run(name, model, folder):
    """The logits of transformers, float32. Fails if a weight of the folder is missing or not used."""
    kind = getattr(transformers, model.get("states", model["class"]))
    options = {"quantization_config": transformers.Mxfp4Config(dequantize=True)} if model.get("mxfp4") else {}
    with contextlib.redirect_stderr(io.StringIO()):
        built, info = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
        )
    wrong = {key: value for key, value in info.items() if value and key != "error_msgs"}
    allowed = (*model.get("unused", ()), *model.get("absent", ()), "?")
    assert all(tensor.startswith(allowed) for tensors in wrong.values() for tensor in tensors), wrong
    built = built.float().eval()
    with torch.inference_mode():
        out = built(torch.tensor([token_ids(name, SIZE)]))
    found = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found[0].float().numpy()


def reference(source):
    """A function that converts a folder with the pinned converter."""
    with contextlib.redirect_stdout(io.StringIO()):
        import convert_hf_to_gguf
        import gguf
        from conversion.base import ModelBase, TextModel
        from conversion.gpt2 import GPT2Model
        from conversion.stablelm import StableLMModel

    told = {}
    TextModel.get_vocab_base_pre = lambda self, tokenizer: told["pre"]  # it knows only whole vocabularies
    load_hparams = ModelBase.load_hparams

    def mended(*args, **rest):
        found = load_hparams(*args, **rest) | told["hparams"]
        return {key: value for key, value in found.items() if key not in told["without"]}

    ModelBase.load_hparams = staticmethod(mended)
    modify_tensors = StableLMModel.modify_tensors

    def yielding(self, *args):  # it returns the generator of the stacked norms where it should yield from it
        yield from (yield from modify_tensors(self, *args)) or ()

    StableLMModel.modify_tensors = yielding
    turned = GPT2Model.modify_tensors

    def without_masks(self, data, name, bid):  # it looks for names for the masks that it says it does not need
        return () if name.endswith((".attn.bias", ".attn.masked_bias")) else turned(self, data, name, bid)

    GPT2Model.modify_tensors = without_masks

    # torch's powers are within a unit in the last place of these, and differ between machines.
    torch.exp = lambda x: x.double().exp().to(x.dtype)

    def convert(folder, out, kind, tokenizer, model):
        told["pre"] = {"wordpiece": "jina-v2-en"}.get(tokenizer, tokenizer)
        told["hparams"], told["without"] = model.get("hparams", {}), model.get("without", ())
        sys.argv = ["convert", str(folder), "--outfile", str(out), "--outtype", kind]
        convert_hf_to_gguf.logger.setLevel("ERROR")
        with contextlib.redirect_stderr(io.StringIO()) as log:
            try:
                convert_hf_to_gguf.main()
            except BaseException:
                print(log.getvalue()[-3000:])
                raise
        reader = gguf.GGUFReader(out)
        metadata = {}
        for key, field in reader.fields.items():
            if not key.startswith("GGUF."):
                kinds = [value.name for value in field.types]
                metadata[key] = [" ".join(kinds), contents(field.contents(), kinds)]
        tensors = {}
        for tensor in reader.tensors:
            data = hashlib.sha256(tensor.data.tobytes()).hexdigest()
            tensors[tensor.name] = [tensor.tensor_type.name, list(map(int, tensor.shape)), data]
        return tensors, metadata

    return convert


def contents(value, kinds):
    """A value of the metadata as JSON has it; an array of more than 16 values as its hash."""
    if isinstance(value, list) and len(value) > 16:
        return {"n": len(value), "sha256": hashlib.sha256(json.dumps(value).encode()).hexdigest()}
    return value


if __name__ == "__main__":
    main()
