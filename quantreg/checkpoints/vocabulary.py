"""The vocabulary of a folder as the keys `tokenizer.*` of a GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantreg.checkpoints.tokenizer_files import TokenizerFiles, whole_number
from quantreg.checkpoints.vocab_bpe import bpe_values, gemma4_values, is_llama, llama_values, vocabulary_size
from quantreg.checkpoints.vocab_spm import is_tiktoken, sentencepiece_values
from quantreg.checkpoints.vocab_tekken import tekken_values
from quantreg.checkpoints.vocab_unigram import unigram_values
from quantreg.checkpoints.vocab_wordpiece import wordpiece_values
from quantreg.checkpoints.vocabulary_hint import HINTS, Vocabulary
from quantreg.errors import TokenizerError
from quantreg.gguf import Value
from quantreg.words import listed

__all__ = ["vocabulary"]

_PRE = "tokenizer.ggml.pre"


def vocabulary(
    folder: Path,
    config: Mapping[str, Any],
    hint: Vocabulary | str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Value]:
    """Return all keys `tokenizer.*` of a model in a folder, in the order in which the reference writes them.

    - ``config``: what config.json says of the text model: "model_type", "vocab_size", and ids of special tokens.
    - ``hint``: what the table of the architecture says of its vocabulary, or the name of one of `HINTS`.
    - ``overrides``: values for keys, as `Value.of` takes them. One for `tokenizer.ggml.pre` is used instead of
      recognising the pre-tokenizer. Keys of other parts of a file are ignored.

    Raises TokenizerError if the folder has no tokenizer, if its files are damaged or contradict each other, if the
    vocabulary is larger than the model's, or if the pre-tokenizer is unknown.
    """
    files = TokenizerFiles(Path(folder))
    if isinstance(hint, str):
        if hint not in HINTS:
            raise TokenizerError(f"{hint!r} names no kind of vocabulary: those known are {listed(sorted(HINTS), 9)}")
        hint = HINTS[hint]
    hint = Vocabulary() if hint is None else hint
    given = {key: Value.of(value) for key, value in (overrides or {}).items() if key.startswith("tokenizer.")}
    pre = given[_PRE].data if _PRE in given and given[_PRE].type == "string" else None
    values: dict[str, Value] = {}
    if hint.space_prefix == "config" and isinstance(files.config.get("add_prefix_space"), bool):
        values["tokenizer.ggml.add_space_prefix"] = Value("bool", files.config["add_prefix_space"])
    count = None
    kind = _kind(files, hint)
    if hint.token_types:
        count = whole_number(config.get("type_vocab_size", 1), '"type_vocab_size" in config.json')
        if kind != "unigram":
            values["tokenizer.ggml.token_type_count"] = Value("u32", count)
    if kind == "sentencepiece":
        values |= sentencepiece_values(files, config, hint)
    elif kind == "llama":
        values |= llama_values(files, config)
    elif kind == "unigram":
        values |= unigram_values(files, config, count)
    elif kind == "tekken":
        values |= tekken_values(files, config)
    elif kind == "gemma4":
        values |= gemma4_values(files, config)
    elif kind == "bpe":
        values |= bpe_values(files, config, pre, hint.named_ids)
    else:
        values |= wordpiece_values(files, config, pre)
    if hint.eot is not None:
        values.setdefault("tokenizer.ggml.eot_token_id", Value("u32", hint.eot))
    if kind == "sentencepiece" and isinstance(hint.space_prefix, bool):
        values["tokenizer.ggml.add_space_prefix"] = Value("bool", hint.space_prefix)
    for role, name in hint.config_ids:
        if config.get(name) is not None:
            id = whole_number(config[name], f'"{name}" in config.json')
            values[f"tokenizer.ggml.{role}_token_id"] = Value("u32", id)
    ends = files.mapping("generation_config.json").get("eos_token_id") if hint.eot_first else None
    if isinstance(ends, list) and len(ends) > 1:
        id = whole_number(ends[0], '"eos_token_id" in generation_config.json')
        values["tokenizer.ggml.eot_token_id"] = Value("u32", id)
    for size, keys in hint.sizes:
        if vocabulary_size(config) == size:
            values.update(keys)
    values.update(hint.keys)
    values.update(given)
    return values


def _kind(files: TokenizerFiles, hint: Vocabulary) -> str:
    """The first kind of vocabulary for which the folder has the files."""
    there = {
        "sentencepiece": lambda: files.has("tokenizer.model") and not is_tiktoken(files),
        "unigram": lambda: files.model_type == "Unigram",
        "tekken": lambda: files.has("tekken.json") and not files.has("tokenizer.json"),
        "llama": lambda: is_llama(files),
        "gemma4": lambda: is_llama(files),
        "bpe": lambda: files.model_type == "BPE" or files.has("vocab.json"),
        "wordpiece": lambda: files.model_type == "WordPiece" or files.has("vocab.txt"),
    }
    kinds = hint.kinds
    if files.tokenizer_class and files.tokenizer_class in hint.bpe_classes:
        kinds = ("bpe", *kinds)
    for kind in kinds:
        if kind not in there:
            raise TokenizerError(f"{kind!r} is no kind of vocabulary: those known are {', '.join(there)}")
        if there[kind]():
            return kind
    if files.tokenizer:
        raise TokenizerError(
            f"{files.folder / 'tokenizer.json'} is a tokenizer of the type {files.model_type or 'unknown'}, but models "
            f"of this architecture have {' or '.join(hint.kinds)}: check that the tokenizer belongs to the model"
        )
    names = {"sentencepiece": "tokenizer.model", "wordpiece": "vocab.txt"}
    raise files.missing(*dict.fromkeys(names.get(kind, "tokenizer.json") for kind in kinds if kind != "tekken"))
