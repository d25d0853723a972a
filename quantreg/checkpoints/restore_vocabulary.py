"""The tokenizer of a GGUF file as the files of a folder, the way back from `vocabulary`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quantreg.checkpoints.restore_models import as_bert, as_bpe, as_llama, as_unigram, is_padding, with_strips
from quantreg.checkpoints.vocab_spm import Piece, encoded_pieces
from quantreg.errors import TokenizerError
from quantreg.tokenization import Kind
from quantreg.tokenization.pretokenizers import PRETOKENIZERS
from quantreg.tokenization.vocabulary import BERT, BPE, SPM, UGM, Vocabulary

__all__ = ["tokenizer_files"]

_PREFIX = "tokenizer.ggml."
_ADDED_SCORE = -1000.0  # of tokens that are added to a `tokenizer.model`
# Role -> name in the files of a folder.
_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "sep": "sep", "pad": "pad", "mask": "mask"}


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a folder from which other libraries load the tokenizer of a GGUF file, by name.

    These are `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json`, and
    `chat_template.jinja` with further templates where the file has some; for the tokenizer model "llama" also
    `tokenizer.model`. A text becomes the same ids. What GGUF does
    not keep, such as the normal form of texts that most models ask for, is what models with this pre-tokenizer have.

    Raises TokenizerError if there is no vocabulary, if it is damaged, or if a folder cannot hold it.
    """
    vocabulary = Vocabulary.of(metadata)
    tokens = list(vocabulary.tokens)
    known = {int(kind) for kind in Kind} - {Kind.UNDEFINED}
    numbers = metadata.get(_PREFIX + "token_type") or [1] * len(tokens)
    # As the file has them: `Vocabulary` corrects some, and would take tokens of other models for special ones.
    kinds = [number if number in known else int(Kind.NORMAL) for number in numbers[: len(tokens)]]
    roles = vocabulary.roles
    if vocabulary.model == BPE:
        name = "gemma4" if metadata[_PREFIX + "model"] == "gemma4" else metadata.get(_PREFIX + "pre") or "default"
        parts = as_bpe(tokens, kinds, vocabulary.merges, name, PRETOKENIZERS[name].whole_words)
    elif vocabulary.model == UGM:
        parts = as_unigram(
            tokens,
            kinds,
            vocabulary.scores,
            roles.get("unknown"),
            vocabulary.charsmap,
            space=vocabulary.add_space_prefix,
            merge=vocabulary.merge_spaces,
        )
    elif vocabulary.model == BERT:
        roles = _bert_roles(metadata, vocabulary)
        parts = as_bert(
            tokens,
            kinds,
            roles["unknown"],
            lowercase=vocabulary.lowercase,
            strip_accents=metadata.get(f"{_PREFIX}normalizer.strip_accents"),
        )
    else:
        parts = as_llama(tokens, kinds, vocabulary.scores, roles.get("unknown"), vocabulary.add_space_prefix)
    parts["added_tokens"] = with_strips(parts["added_tokens"], vocabulary.lstrip, vocabulary.rstrip)
    content = {entry["id"]: entry["content"] for entry in parts["added_tokens"]}
    content = {**dict(enumerate(tokens)), **content}
    special = {f"{_NAMES[role]}_token": content[id] for role, id in _named(metadata, vocabulary).items()}
    if vocabulary.model == BERT and "bos" in roles:
        special["cls_token"] = content[roles["bos"]]
    parts["post_processor"] = _post_processor(metadata, vocabulary, roles, content)
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, **parts}
    config = _config(metadata, vocabulary, parts, special)
    files = {
        "tokenizer.json": _json(tokenizer),
        "special_tokens_map.json": _json(special),
        "generation_config.json": _json(_generation(metadata, vocabulary)),
    }
    if vocabulary.model == SPM:
        # The scores are there alone. Tokens that it has with their type need no second entry, which would change them.
        files["tokenizer.model"] = _pieces(vocabulary, tokens, kinds)
        again = (id for id in list(config["added_tokens_decoder"]) if vocabulary.scores[int(id)] != _ADDED_SCORE)
        for id in [id for id in again if kinds[int(id)] != Kind.USER_DEFINED]:
            del config["added_tokens_decoder"][id]
    files["tokenizer_config.json"] = _json(config)
    return files | _templates(metadata)


def _pieces(vocabulary: Vocabulary, tokens: Sequence[str], kinds: Sequence[int]) -> bytes:
    pieces = [
        Piece(_raw(token), float(score), kind)
        for token, score, kind in zip(tokens, vocabulary.scores, kinds, strict=False)
    ]
    while pieces and is_padding(len(pieces) - 1, tokens[len(pieces) - 1], pieces[-1].type):
        del pieces[-1]
    return encoded_pieces(pieces, space=vocabulary.add_space_prefix)


def _named(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, int]:
    """The roles that get a name in a folder: those that the file gives, and those that are put around a text.

    The libraries that read folders take a token with a name for a special one, so that it must be one.
    """
    needed = {role for role, added in (("bos", vocabulary.add_bos), ("eos", vocabulary.add_eos)) if added}
    keys = {"sep": "seperator", "pad": "padding"}
    return {
        role: id
        for role, id in vocabulary.roles.items()
        if role in _NAMES
        and (role in needed or f"{_PREFIX}{keys.get(role, role)}_token_id" in metadata)
        and vocabulary.kinds[id] in (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)
    }


def _bert_roles(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, int]:
    """The roles of a "bert" vocabulary. Ids that the file does not give are those of the usual texts, where it can be.

    The reference has fixed ids for such files, which are right only for the vocabularies of the first BERT models.
    """
    keys = {"sep": "seperator", "pad": "padding"}
    roles = dict(vocabulary.roles)
    texts = {"bos": "[CLS]", "sep": "[SEP]", "unknown": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
    for role, text in texts.items():
        if f"{_PREFIX}{keys.get(role, role)}_token_id" in metadata and role in roles:
            continue
        id = next((vocabulary.ids[form] for form in (text, f"▁{text}") if form in vocabulary.ids), None)
        if id is not None:
            roles[role] = id
        elif role != "unknown" or role not in roles:
            roles.pop(role, None)
    if "unknown" not in roles:
        raise TokenizerError(
            f"the vocabulary names no token for unknown words ({_PREFIX}unknown_token_id), which a folder needs: "
            "set the key with `quantreg metadata set`"
        )
    return roles


def _post_processor(
    metadata: Mapping[str, Any], vocabulary: Vocabulary, roles: Mapping[str, int], content: Mapping[int, str]
) -> dict[str, Any] | None:
    """What is put around a text."""
    before = roles.get("bos") if vocabulary.add_bos else None
    after = roles.get("eos") if vocabulary.add_eos else None
    if vocabulary.model == BERT:
        after = roles.get("sep")
    if before is None and after is None:
        if not any(f"{_PREFIX}add_{role}_token" in metadata for role in ("bos", "eos")):
            return None  # another one would say that nothing is added, which the file leaves open
        if vocabulary.model == BPE and not vocabulary.pre.spaces_marked:
            return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
        return _template([_sequence("A", 0)], [_sequence("A", 0), _sequence("B", 1)], {})
    separated = metadata.get(f"{_PREFIX}add_sep_token")
    if separated and vocabulary.model == BPE and before is not None and after is not None:
        return {
            "type": "RobertaProcessing",
            "sep": [content[after], after],
            "cls": [content[before], before],
            "trim_offsets": True,
            "add_prefix_space": False,
        }
    first = [] if before is None else [_special(content[before], 0)]
    last = [] if after is None else [_special(content[after], 0)]
    single = [*first, _sequence("A", 0), *last]
    if vocabulary.model == BERT:
        pair = [*single, _sequence("B", 1), *([] if after is None else [_special(content[after], 1)])]
    else:
        pair = [
            *single,
            *([] if before is None or separated is None else [_special(content[before], 1)]),
            _sequence("B", 1),
            *([] if after is None else [_special(content[after], 1)]),
        ]
    used = {content[id]: id for id in (before, after) if id is not None}
    return _template(single, pair, used)


def _sequence(name: str, type: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": type}}


def _special(text: str, type: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": type}}


def _template(single: list[dict[str, Any]], pair: list[dict[str, Any]], used: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]} for text, id in used.items()},
    }


def _config(
    metadata: Mapping[str, Any], vocabulary: Vocabulary, parts: Mapping[str, Any], special: Mapping[str, str]
) -> dict[str, Any]:
    added = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in parts["added_tokens"]
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        **{
            f"add_{role}_token": flag
            for role, flag in (("bos", vocabulary.add_bos), ("eos", vocabulary.add_eos))
            if f"{_PREFIX}add_{role}_token" in metadata
        },
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if f"{_PREFIX}add_space_prefix" in metadata:
        config["add_prefix_space"] = vocabulary.add_space_prefix
    length = metadata.get(f"{metadata.get('general.architecture', '')}.context_length")
    if isinstance(length, int) and length > 0:
        config["model_max_length"] = int(length)
    return config


def _generation(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The ids that generation needs. A text ends with EOS, or with the end of a turn or message."""
    named = _named(metadata, vocabulary)
    found: dict[str, Any] = {f"{role}_token_id": named[role] for role in ("bos", "pad") if role in named}
    ends = [
        vocabulary.roles[role]
        for role in ("eos", "eot", "eom")
        if f"{_PREFIX}{role}_token_id" in metadata and role in vocabulary.roles
    ]
    ends = list(dict.fromkeys(ends))
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return found


def _templates(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    prefix = "tokenizer.chat_template"
    found = {}
    for key, value in metadata.items():
        if key == prefix and isinstance(value, str):
            found["chat_template.jinja"] = _raw(value)
        elif key.startswith(f"{prefix}.") and isinstance(value, str):
            name = key[len(prefix) + 1 :]
            if name.replace("_", "").isalnum() and name.isascii():
                found[f"additional_chat_templates/{name}.jinja"] = _raw(value)
    return found


def _json(value: Any) -> bytes:
    return _raw(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _raw(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError(
            "the vocabulary has bytes that are no UTF-8, which JSON cannot hold: take the tokenizer's files from the "
            "model's own folder"
        ) from None
