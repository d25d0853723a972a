"""The vocabulary of a model, from its metadata `tokenizer.ggml.*`, with the reference's defaults and corrections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from quantreg.errors import TokenizerError
from quantreg.tokenization.pretokenizers import PRETOKENIZERS, PreTokenizer
from quantreg.tokenization.roles import END_TEXTS, RENDERED, ROLE_TEXTS
from quantreg.words import listed

__all__ = ["BERT", "BPE", "SPM", "UGM", "Kind", "Vocabulary"]

SPM = "llama"
BPE = "gpt2"
BERT = "bert"
UGM = "t5"
# gemma4: byte pairs with a pre-tokenizer of its own
_MODELS = {"llama": SPM, "gpt2": BPE, "gemma4": BPE, "bert": BERT, "t5": UGM}

_PREFIX = "tokenizer.ggml."
# The role of a token -> the end of its key; the last ones are old names.
_KEYS = (
    *(("bos", "bos"), ("eos", "eos"), ("eot", "eot"), ("eom", "eom"), ("unknown", "unknown"), ("sep", "seperator")),
    *(("pad", "padding"), ("mask", "mask"), ("fim_pre", "fim_pre"), ("fim_suf", "fim_suf"), ("fim_mid", "fim_mid")),
    *(("fim_pad", "fim_pad"), ("fim_rep", "fim_rep"), ("fim_sep", "fim_sep")),
    *(("fim_pre", "prefix"), ("fim_suf", "suffix"), ("fim_mid", "middle")),
)
_DEFAULTS = {
    SPM: {"bos": 1, "eos": 2, "unknown": 0},
    BPE: {"bos": 11, "eos": 11},
    UGM: {"eos": 1, "unknown": 2, "pad": 0},
    BERT: {"bos": 101, "unknown": 100, "sep": 102, "pad": 0, "mask": 103},
}
_IDS_FILE = (
    "make the token ids with llama.cpp, `llama-tokenize -m MODEL -f TEXT --ids --no-escape --no-parse-special > "
    "ids.txt`, and give them with --ids ids.txt"
)


class Kind(IntEnum):
    """The type of a token, numbered as in `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and how to use them.

    - ``model``: SPM, BPE, BERT or UGM.
    - ``tokens``, ``scores``, ``kinds``: one of each per id.
    - ``ids``: token -> id.
    - ``roles``: "bos", "eos", "eot", "unknown", "sep" ... -> id.
    - ``end_ids``: the tokens at which generation ends.
    - ``charsmap``: the table by which UGM normalizes a text, and ``merge_spaces`` whether several spaces become one.
    - ``lstrip``, ``rstrip``: special tokens that swallow the white space before or behind them.
    """

    model: str
    tokens: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[Kind]
    ids: Mapping[str, int]
    merges: Sequence[str]
    pre: PreTokenizer
    roles: Mapping[str, int]
    end_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    clean_up: bool
    lowercase: bool
    strip_accents: bool
    lstrip: frozenset[int]
    rstrip: frozenset[int]
    charsmap: bytes = b""
    merge_spaces: bool = False

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Vocabulary":
        """Read the vocabulary from a GGUF file's metadata.

        Raises TokenizerError if there is none, if it is damaged, or if its model or pre-tokenizer is unknown.
        """
        name = _text(metadata, "model")
        model = _MODELS.get(name)
        if model is None:
            raise TokenizerError(_unknown(name))
        tokens = _tokens(metadata)
        ids = {token: id for id, token in enumerate(tokens)}
        if len(ids) < len(tokens):
            twice = next(token for id, token in enumerate(tokens) if ids[token] != id)
            raise TokenizerError(f"the vocabulary has the token {twice!r} twice: convert the model again")
        pre = _pretokenizer(name, model, metadata)
        defaults = {} if name == "gemma4" else dict(_DEFAULTS[model])
        if pre.no_bos:
            del defaults["bos"]
        roles = _roles(metadata, defaults, len(tokens))
        kinds = _kinds(metadata, len(tokens))
        _find_roles(ids, kinds, roles)
        ends = _ends(ids, kinds, roles)
        lstrip, rstrip = _strips(metadata, ids, kinds)
        lowercase = bool(metadata.get(_PREFIX + "normalizer.lowercase", True))
        return cls(
            model=model,
            tokens=tokens,
            scores=_numbers(metadata, "scores", len(tokens), 0.0),
            kinds=kinds,
            ids=ids,
            merges=_merges(metadata, model),
            pre=pre,
            roles=roles,
            end_ids=frozenset(ends),
            add_bos=bool(metadata.get(_PREFIX + "add_bos_token", model in (SPM, BERT) or pre.add_bos))
            or pre.newline_runs,
            add_eos=bool(metadata.get(_PREFIX + "add_eos_token", model == UGM)),
            add_space_prefix=bool(metadata.get(_PREFIX + "add_space_prefix", model == SPM)),
            clean_up={SPM: False, BPE: pre.clean_up, BERT: True, UGM: False}[model],
            lowercase=lowercase,
            strip_accents=bool(metadata.get(_PREFIX + "normalizer.strip_accents", lowercase)),
            lstrip=lstrip,
            rstrip=rstrip,
            charsmap=bytes(number & 0xFF for number in _list(metadata, "precompiled_charsmap", None, int) or ()),
            merge_spaces=bool(metadata.get(_PREFIX + "remove_extra_whitespaces", False)),
        )


def _unknown(model: str) -> str:
    if model in ("", "none", "no_vocab"):
        return (
            f"the model has no tokenizer (tokenizer.ggml.model is {model or 'missing'}): give token ids with --ids FILE"
        )
    return f"the tokenizer model {model!r} is not one of those known, {listed(sorted(_MODELS), 9)}: {_IDS_FILE}"


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(_PREFIX + key, "")
    if not isinstance(value, str):
        raise TokenizerError(f"{_PREFIX}{key} is {value!r}, not a string: convert the model again")
    return value


def _list(
    metadata: Mapping[str, Any], key: str, length: int | None, type_: type | tuple[type, ...]
) -> list[Any] | None:
    """Return a list of the metadata, or None where there is none."""
    value = metadata.get(_PREFIX + key)
    if value is None:
        return None
    values = [] if isinstance(value, (str, bytes)) else list(value) if hasattr(value, "__iter__") else []
    if not values or not isinstance(values[0], type_):
        raise TokenizerError(f"{_PREFIX}{key} is no list of the right type: convert the model again")
    if type_ is str and any("\0" in value for value in values):
        values = [value.split("\0", 1)[0] for value in values]  # to the reference, strings end at a NUL
    if length is not None and len(values) < length:
        raise TokenizerError(f"{_PREFIX}{key} has {len(values)} entries for {length} tokens: convert the model again")
    return values


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _list(metadata, "tokens", None, str)
    if tokens is None:
        raise TokenizerError(f"the model has no {_PREFIX}tokens: give token ids with --ids FILE")
    return [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]


def _numbers(metadata: Mapping[str, Any], key: str, length: int, default: float) -> list[Any]:
    numbers = _list(metadata, key, length, (int, float))
    return [default] * length if numbers is None else numbers


def _kinds(metadata: Mapping[str, Any], length: int) -> list[Kind]:
    known = {int(kind): kind for kind in Kind}
    return [known.get(number, Kind.UNDEFINED) for number in _numbers(metadata, "token_type", length, 1)[:length]]


def _merges(metadata: Mapping[str, Any], model: str) -> list[str]:
    if model != BPE:
        return []
    merges = _list(metadata, "merges", None, str)
    if merges is None:
        if _text(metadata, "pre") == "kimi-k2":
            return []
        raise TokenizerError(
            f"the model has no {_PREFIX}merges, which the tokenizer model gpt2 needs: convert it again"
        )
    return merges


def _pretokenizer(name: str, model: str, metadata: Mapping[str, Any]) -> PreTokenizer:
    if model != BPE:
        return PreTokenizer(())
    pre = "gemma4" if name == "gemma4" else _text(metadata, "pre") or "default"
    if pre not in PRETOKENIZERS:
        raise TokenizerError(f"the pre-tokenizer {pre!r} is unknown, and others would give other tokens: {_IDS_FILE}")
    return PRETOKENIZERS[pre]


def _roles(metadata: Mapping[str, Any], defaults: dict[str, int], length: int) -> dict[str, int]:
    """Return the tokens that the file names; ids outside the vocabulary do not count."""
    roles = {role: id for role, id in defaults.items() if id < length}
    for role, key in _KEYS:
        id = metadata.get(f"{_PREFIX}{key}_token_id")
        if isinstance(id, int) and 0 <= id < length:
            roles[role] = int(id)
    return roles


def _find_roles(ids: Mapping[str, int], kinds: list[Kind], roles: dict[str, int]) -> None:
    """Find the tokens of roles that the file does not name by their text; they become control tokens."""
    for role, texts in ROLE_TEXTS.items():
        if role not in roles:
            found = next((ids[text] for text in texts if text in ids), None)
            if found is not None:
                roles[role] = found
                kinds[found] = Kind.CONTROL


def _ends(ids: Mapping[str, int], kinds: list[Kind], roles: Mapping[str, int]) -> set[int]:
    """Return the tokens that end a generation. The reference also knows the kinds of some tokens by their text."""
    ends = {roles[role] for role in ("fim_pad", "fim_rep", "fim_sep") if role in roles}
    for text in END_TEXTS & ids.keys():
        ends.add(ids[text])
        kinds[ids[text]] = Kind.CONTROL
    for text in RENDERED & ids.keys():
        kinds[ids[text]] = Kind.USER_DEFINED
    ends |= {roles[role] for role in ("eos", "eot", "eom") if role in roles}

    def has(*texts: str) -> bool:
        return all(ids.get(text) in ends for text in texts)

    called = has("<|call|>") or has("<|calls|>")
    if called and has("<|end|>") and (has("<|return|>") or has("<|flush|>")):
        ends.remove(ids["<|end|>"])  # it ends a message there, not the answer
        kinds[ids["<|end|>"]] = Kind.USER_DEFINED
    if has("</s>") and (has("<|tool_response>") or has("<|plamo:eos|>")):
        ends.remove(ids["</s>"])
        kinds[ids["</s>"]] = Kind.NORMAL
    return ends


def _strips(
    metadata: Mapping[str, Any], ids: Mapping[str, int], kinds: Sequence[Kind]
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the tokens that swallow the white space before them, and those that swallow it behind them.

    No metadata say so; the reference goes by names.
    """
    pre, architecture = _text(metadata, "pre"), str(metadata.get("general.architecture", ""))
    name = str(metadata.get("general.name", "")).lower()
    if any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")) or any(
        part in architecture for part in ("nomic-bert-moe", "jina-bert-v3")
    ):
        return frozenset(ids[text] for text in ("<mask>",) if text in ids), frozenset()
    if "phi-3" in name or "phi3" in name:
        special = {id for id, kind in enumerate(kinds) if kind in (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)}
        special |= {ids[text] for text in ("</s>",) if text in ids}
        return frozenset(), frozenset(special - {ids.get(text, -1) for text in ("<unk>", "<s>", "<|endoftext|>")})
    if "modern-bert" in name:
        return frozenset(ids[text] for text in ("[MASK]",) if text in ids), frozenset()
    return frozenset(), frozenset()
