"""Write the goldens of ``tests/golden/vocabularies`` with the reference converter and the package tokenizers.

Usage: PYTHONPATH=tests/support python -m checkpoints.make_vocabularies LLAMA_CPP

It needs transformers==5.24.0, torch==2.13.0, tokenizers and sentencepiece. LLAMA_CPP is the source tree of the pinned
llama.cpp. `splits.json` has the ids that tokenizers gives for texts, for each structure of `vocabularies.STRUCTURES`.
`folders.json` has small folders and the metadata that the reference writes for them.
"""

import base64
import json
import logging
import sys
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from checkpoints.vocabularies import (
    GOLDEN,
    STRUCTURES,
    digests,
    shortened,
    texts,
    texts_for,
    tokenizer_json,
    write_files,
)
from checkpoints.vocabulary_folders import folders

ROOT = Path(__file__).resolve().parents[3]


def main():
    GOLDEN.mkdir(exist_ok=True)
    lines = [line for path in sorted((ROOT / "docs").glob("a*.md")) for line in path.read_text().splitlines()][:400]
    save("splits.json", splits(lines))
    save("folders.json", converted(Path(sys.argv[1]), lines))


def save(name, golden):
    compact = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (GOLDEN / name).write_text(compact.replace('},"', '},\n"') + "\n", encoding="utf-8")
    print(name, (GOLDEN / name).stat().st_size)


def splits(lines):
    """A vocabulary whose merges cross words, so that ids show where a text was split; and digests of ids."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spread = [line[at : at + 24] for line in lines for at in range(0, len(line), 24)]
    spread += texts("training", count=300) * 2
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        spread, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    found = {"vocab": model["vocab"], "merges": [" ".join(pair) for pair in model["merges"]], "structures": {}}
    for name in STRUCTURES:
        tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(name, model["vocab"], model["merges"])))
        chosen = texts_for(name)
        found["structures"][name] = digests([tokenizer.encode(text, add_special_tokens=False).ids for text in chosen])
    return found


def converted(source, lines):
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        trained = {}
        for kind in ("bpe", "unigram"):
            prefix = Path(scratch) / kind
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(filter(str.isascii, lines)), model_prefix=str(prefix), vocab_size=380,
                model_type=kind, byte_fallback=True, num_threads=1, minloglevel=2, normalization_rule_name="identity",
                remove_extra_whitespaces=False, user_defined_symbols=["<tool>"], control_symbols=["<ctl>"],
            )  # fmt: skip
            trained[kind] = "base64:" + base64.b64encode(prefix.with_suffix(".model").read_bytes()).decode()
        found = {}
        for name, (kind, _, pre, files) in folders(trained).items():
            found[name] = list(map(shortened, reference(write_files(Path(scratch) / name, files), kind, pre)))
    return {"trained": trained, "metadata": found}


def reference(folder, kind, pre):
    """What the pinned converter writes of a vocabulary: [key, type, value]."""
    import gguf
    from conversion import get_model_class

    converter = get_model_class(kind)
    model = converter.__new__(converter)
    model.dir_model = folder
    model.hparams = json.loads((folder / "config.json").read_text())
    model.gguf_writer = gguf.GGUFWriter(None, "llama")
    model.gguf_writer.kv_data[0].clear()
    model.is_mistral_format, model.origin_hf_arch, model.hf_arch = False, kind, kind
    model.get_vocab_base_pre = lambda tokenizer: pre  # it knows only whole vocabularies
    model.set_vocab()
    names = {name: name.lower().replace("uint", "u").replace("int", "i").replace("float", "f") for name in (
        *("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "BOOL", "STRING", "UINT64", "INT64"),
        "FLOAT64",
    )}  # fmt: skip
    found = []
    for key, value in model.gguf_writer.kv_data[0].items():
        if value.type.name == "ARRAY":
            data = [plain(item) for item in value.value]
            found.append([key, f"array[{names[gguf.GGUFValueType.get_type(data[0]).name]}]", data])
        else:
            found.append([key, names[value.type.name], plain(value.value)])
    return found


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return int(value) if hasattr(value, "value") else value


if __name__ == "__main__":
    main()
