"""The tokens that are added to a vocabulary, and which of them are special, as the library that reads folders sees it.

`tokenizer.json` lists added tokens; `tokenizer_config.json` may list them again with other flags, or more of them, and
names those with a role, which are special whatever their flags say. Folders from older versions say it in
`special_tokens_map.json` and `added_tokens.json`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quantreg.checkpoints.tokenizer_files import TokenizerFiles, whole_number
from quantreg.errors import TokenizerError

__all__ = [
    "AddedToken",
    "added_tokens",
]

# Names that the classes of tokenizers have where a folder gives none.
_BERT = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
_CLASS_NAMES = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "GPT2Tokenizer": ("<|endoftext|>",),
    "Qwen2Tokenizer": ("<|endoftext|>",),
    "GPTNeoXTokenizer": ("<|endoftext|>",),
    "LlamaTokenizer": ("<unk>", "<s>", "</s>"),
}
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_MODEL_CLASSES = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "llama": "LlamaTokenizer"}


@dataclass(frozen=True)
class AddedToken:
    """A token outside the base vocabulary, or one of it with a mark.

    ``normalized``: texts are searched for it after they are normalized.
    """

    content: str
    special: bool
    normalized: bool


def added_tokens(files: TokenizerFiles, base: Mapping[str, int], kind: str = "") -> dict[int, AddedToken]:
    """Return the added tokens by id.

    ``base`` is the vocabulary of the model, and ``kind`` the "model_type" in config.json. Raises TokenizerError if a
    file gives an id that the token cannot have.
    """
    names = list(_named_tokens(files, kind, base))
    table = _Table(files, base)
    old = "added_tokens_decoder" not in files.config
    for entry in files.added:
        table.add(_token(entry, old and entry["content"] in names), entry["id"], "tokenizer.json")
    for id, entry in sorted(files.decoder_entries(), key=lambda found: found[0]):
        table.add(_token(entry, entry["content"] in names), id, "tokenizer_config.json")
    if old and files.has("added_tokens.json"):
        for content, id in files.mapping("added_tokens.json").items():
            number = whole_number(id, f"the id of the token {content!r} in {files.folder / 'added_tokens.json'}")
            if content not in table.ids:
                special = content in names
                table.add(AddedToken(content, special, not special), number, "added_tokens.json")
    for name in names:
        if name not in table.ids:
            table.add(AddedToken(name, True, False), None, "")
    return table.tokens


class _Table:
    """Gives out ids as the library does: a token that the model has keeps its id, and others follow the last one."""

    def __init__(self, files: TokenizerFiles, base: Mapping[str, int]) -> None:
        self.ids: dict[str, int] = {}
        self.tokens: dict[int, AddedToken] = {}
        self._files, self._base = files, base
        self._next = len(base)

    def add(self, token: AddedToken, id: int | None, name: str) -> None:
        content = token.content
        if not content:
            return
        found = self.ids.get(content, self._base.get(content, self._next))
        if id is not None and id != found:
            raise TokenizerError(
                f"{self._files.folder / name} gives the added token {content!r} the id {id}, but "
                + (
                    f"the vocabulary has it as {found}"
                    if content in self.ids or content in self._base
                    else f"the next free id is {found}"
                )
                + ": ids must be given once and without gaps, correct the file"
            )
        if content not in self.ids and content not in self._base:
            self._next += 1
        self.ids[content] = found
        self.tokens[found] = token


def _token(entry: Mapping[str, Any], named: bool = False) -> AddedToken:
    special = bool(entry.get("special")) or named
    return AddedToken(entry["content"], special, bool(entry.get("normalized", not entry.get("special"))))


def _named_tokens(files: TokenizerFiles, kind: str, base: Mapping[str, int]) -> Iterator[str]:
    """The texts of the tokens with a role: BOS, EOS, padding and so on; some come several times."""
    name = files.tokenizer_class or _MODEL_CLASSES.get(kind, "")
    known = {entry["content"] for entry in files.added}
    yield from (text for text in _CLASS_NAMES.get(name, ()) if text in known or text in base)
    merged = dict(files.config)
    if "added_tokens_decoder" not in files.config:
        merged |= files.mapping("special_tokens_map.json")
    for key, value in merged.items():
        if key.endswith("_token"):
            yield from _texts([value])
        elif key in _LISTS:
            yield from _texts(value)


def _texts(values: Any) -> Iterator[str]:
    values = values.values() if isinstance(values, dict) else values
    for value in values if isinstance(values, Collection) else ():
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            yield text
