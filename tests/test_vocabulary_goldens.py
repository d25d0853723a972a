"""The vocabulary of a folder becomes the metadata of the reference, and texts become the ids of the tokenizers package.

Both are goldens: `checkpoints.make_vocabularies` writes them with the reference converter and with that package.
"""

import json

import numpy as np
import pytest
from checkpoints.vocabularies import (
    GOLDEN,
    GROUP,
    STRUCTURES,
    digests,
    shortened,
    texts_for,
    tokenizer_json,
    write_files,
)
from checkpoints.vocabulary_folders import folders

from quantreg import Tokenizer
from quantreg.checkpoints.vocabulary import vocabulary

SPLITS = json.loads((GOLDEN / "splits.json").read_text(encoding="utf-8"))
FOLDERS = json.loads((GOLDEN / "folders.json").read_text(encoding="utf-8"))
CASES = folders(FOLDERS["trained"])

_PREFIX = "tokenizer.ggml."
# Folder -> keys that are not the reference's, on purpose (docs/checkpoints.md says why).
OTHERS = {
    "additional": {"token_type"},
    "old folder": {"token_type"},
    "llama json": {"scores"},
    "bert text": {f"{role}_token_id" for role in ("bos", "unknown", "seperator", "mask")},
    "bert text without names": {
        *(f"{role}_token_id" for role in ("bos", "unknown", "seperator", "mask")),
        "normalizer.lowercase",
    },
}


def written(values):
    return [shortened([key, value.type, value.data]) for key, value in values.items()]


def expected(entry):
    """An entry of a golden with numbers as float32, and the names of templates in order: the reference has a set."""
    key, kind, *rest = entry
    if kind == "array[f32]" and isinstance(rest[0], list):
        return [key, kind, np.float32(rest[0]).tolist()]
    return [key, kind, sorted(rest[0])] if key == "tokenizer.chat_templates" else entry


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_folder_becomes_the_metadata_of_the_reference_in_its_order(name, tmp_path):
    _, hint, _, files = CASES[name]
    folder = write_files(tmp_path, files)
    config = files["config.json"]
    found = written(vocabulary(folder, {**config, **config.get("text_config", {})}, hint))
    ours = {_PREFIX + key for key in OTHERS.get(name, ())}
    wanted = [expected(entry) for entry in FOLDERS["metadata"][name] if entry[0] not in ours]
    assert [entry for entry in found if entry[0] not in ours] == wanted
    assert ours <= {entry[0] for entry in found}


def metadata_of(name, tmp_path):
    files = {"tokenizer.json": tokenizer_json(name, SPLITS["vocab"], SPLITS["merges"])}
    config = {"model_type": STRUCTURES[name][2].get("model_type", "llama")}
    return {key: value.data for key, value in vocabulary(write_files(tmp_path, files), config, "bpe").items()}


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_the_structure_of_a_pretokenizer_has_its_name_and_splits_texts_as_it_does(name, tmp_path):
    pre = STRUCTURES[name][0]
    metadata = metadata_of(name, tmp_path)
    assert metadata["tokenizer.ggml.pre"] == pre
    tokenizer = Tokenizer.of(metadata)
    chosen = texts_for(name)
    found = digests([tokenizer.encode(text, special=True) for text in chosen])
    wrong = [at for at, pair in enumerate(zip(found, SPLITS["structures"][name], strict=True)) if pair[0] != pair[1]]
    assert not wrong, f"the ids differ for one of {chosen[wrong[0] * GROUP :][:GROUP]}"
