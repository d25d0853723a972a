"""Special tokens: their ids, whether BOS and EOS are added, chat templates, and what the normalizer does.

The ids are looked for where the reference looks, and in its order: `tokenizer_config.json` names tokens, whose ids are
among the added tokens of `tokenizer.json`; then `config.json` gives ids. What the post-processor of `tokenizer.json`
adds around a text counts more than the flags of `tokenizer_config.json`.
"""

from collections.abc import Mapping, Sequence
from string import ascii_letters, digits
from typing import Any

from quantreg.checkpoints.tokenizer_files import TokenizerFiles
from quantreg.errors import TokenizerError
from quantreg.gguf import Value

__all__ = ["special_values"]

_PREFIX = "tokenizer.ggml."
# Role in the files -> key in GGUF; "cls" has none.
_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ADDED = ("bos", "eos", "sep")  # those with a key that says whether they are added


def special_values(
    files: TokenizerFiles,
    config: Mapping[str, Any],
    *,
    merges: Sequence[str] = (),
    limit: int | None = None,
    named: Mapping[str, int] | None = None,
) -> dict[str, Value]:
    """Return the keys that follow the tokens in a GGUF file, in the order of the reference.

    ``merges``: the merges of byte pairs, which come first. ``limit``: ids from this number on are left out.
    ``named``: ids of roles that the files do not name.
    """
    found = _Special(files, config, limit)
    values: dict[str, Value] = {}
    if merges:
        values[_PREFIX + "merges"] = Value("array[string]", merges)
    for role, id in (named or {}).items():
        found.ids.setdefault(role, id)
    for role, id in found.ids.items():
        if role in _ID_KEYS:
            values[_PREFIX + _ID_KEYS[role]] = Value("u32", id)
    for role, added in found.added.items():
        if role in _ADDED:
            values[f"{_PREFIX}add_{role}_token"] = Value("bool", added)
    values.update(_chat_template(files))
    normalizer = files.tokenizer.get("normalizer")
    for key, flag in _normalizer(normalizer if isinstance(normalizer, dict) else {}).items():
        values[f"{_PREFIX}normalizer.{key}"] = Value("bool", flag)
    return values


class _Special:
    """The ids of special tokens and which of them are added, found step by step."""

    def __init__(self, files: TokenizerFiles, config: Mapping[str, Any], limit: int | None) -> None:
        self.ids: dict[str, int] = {}
        self.added: dict[str, bool] = {}
        self._limit = limit
        self._roles = list(_ROLES)
        # What the post-processor shows is entered here as if the file had said it.
        self._config = dict(files.config)
        self._has_config = bool(files.config)
        if files.tokenizer:
            self._read_processor(files.tokenizer.get("post_processor"))
        if self._has_config:
            self._read_config(files)
        self._read_model_config(files.model_config or config)

    def _name(self, role: str) -> Any:
        return self._config.get(f"{role}_token")

    def _read_processor(self, processor: Any) -> None:
        if self._has_config:
            for role, other in (("bos", "cls"), ("eos", "sep")):
                if not self._name(role) and self._name(other):
                    self._config[f"{role}_token"] = self._name(other)
        # As the reference does, compare what is written: an object with "content" is no text.
        self._names = {role: self._name(role) for role in ("bos", "cls", "eos", "sep")}
        if not isinstance(processor, dict):
            return
        steps = processor.get("processors", [processor])
        for step in steps if isinstance(steps, list) else []:
            kind = step.get("type") if isinstance(step, dict) else None
            if kind == "ByteLevel":
                self.added.setdefault("bos", False)
                self.added.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self._read_pair(step)
            elif kind == "TemplateProcessing":
                self._read_template(_parts(step, "single"), _parts(step, "pair"))

    def _say(self, role: str, name: Any) -> None:
        """Enter the name of a special token that the post-processor shows."""
        self._names[role] = name
        if self._has_config:
            self._config[f"{role}_token"] = name

    def _read_pair(self, step: dict[str, Any]) -> None:
        self.added.update(bos=True, eos=True, sep=True)
        for role, other in (("cls", "bos"), ("sep", "eos")):
            if not self._names[role] and self._has_config:
                pair = step.get(role)
                self._say(role, pair[0] if isinstance(pair, list) and pair else self._names[other])

    def _read_template(self, single: list[dict[str, Any]], pair: list[dict[str, Any]]) -> None:
        first = last = None
        if len(single) > 1:
            first, last = _special(single[0]), _special(single[-1])
            if first:
                self._read_first(first)
            if last:
                self._read_last(last)
        if pair:
            self._read_separator(pair, first, last)

    def _read_first(self, first: str) -> None:
        names = self._names
        if not self._has_config:
            names["bos"] = first
        elif first not in (names["bos"], names["cls"]):
            for role in ("bos", "cls"):
                if not names[role]:
                    self._say(role, first)
        self.added["bos"] = first in (names["bos"], names["cls"])

    def _read_last(self, last: str) -> None:
        if not self._has_config:
            self._names["eos"] = last
        elif last != self._names["eos"]:
            # The token that the file calls EOS ends a turn, and this one ends a text.
            role = next((role for role in ("eot", "eom") if role not in self._roles), None)
            if role is not None:
                self._roles.append(role)
                self._config[f"{role}_token"] = self._names["eos"]
            self._say("eos", last)
        self.added["eos"] = True

    def _read_separator(self, pair: list[dict[str, Any]], first: str | None, last: str | None) -> None:
        start = 1 if first and _special(pair[0]) == first else 0
        stop = len(pair) - 1 if last and _special(pair[-1]) == last else len(pair)
        pair = pair[start:stop]
        if len(pair) < 3 or _sequence(pair[0]) != "A" or _sequence(pair[-1]) != "B":
            return
        between = pair[1:-1]
        separators = (self._names["sep"], self._names["eos"])
        add = _special(between[0]) in separators and not last if _special(between[0]) else False
        if len(between) == 2 and _special(between[1]) and _special(between[1]) in separators:
            add = True
        self.added["sep"] = add
        if add and not self._names["sep"] and self._has_config:
            self._config["sep_token"] = self._names["eos"]

    def _read_config(self, files: TokenizerFiles) -> None:
        ids: dict[str, int] = {}
        for entry in files.added:
            ids.setdefault(entry["content"], entry["id"])
        for role in self._roles:
            flag = self._config.get(f"add_{role}_token")
            if isinstance(flag, bool):
                self.added.setdefault(role, flag)
            text = _text(self._name(role))
            if text is not None:
                self._set(role, ids.get(text))

    def _read_model_config(self, config: Mapping[str, Any]) -> None:
        inner = config.get("text_config")
        for role in self._roles:
            id = config.get(f"{role}_token_id")
            if id is None and isinstance(inner, Mapping):
                id = inner.get(f"{role}_token_id")
            self._set(role, id)

    def _set(self, role: str, id: Any) -> None:
        """Take an id unless the role has one. Lists, and -1 for "none", do not count."""
        if isinstance(id, int) and not isinstance(id, bool) and id >= 0 and (self._limit is None or id < self._limit):
            if id >= 1 << 32:
                raise TokenizerError(f"the id of the {role} token is {id}, but ids end at 2^32 - 1: check config.json")
            self.ids.setdefault(role, id)


def _text(name: Any) -> str | None:
    """The text of a special token, which is a text or an object with "content"."""
    found = name.get("content") if isinstance(name, dict) else name
    return found if isinstance(found, str) else None


def _parts(step: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = step.get(key)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


def _special(part: dict[str, Any]) -> str | None:
    return _id(part.get("SpecialToken"))


def _sequence(part: dict[str, Any]) -> str | None:
    return _id(part.get("Sequence"))


def _id(entry: Any) -> str | None:
    found = entry.get("id") if isinstance(entry, dict) else None
    return found if isinstance(found, str) else None


def _normalizer(normalizer: dict[str, Any]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    kind = normalizer.get("type")
    if kind == "Lowercase":
        found["lowercase"] = True
    elif kind == "StripAccents":
        found["strip_accents"] = True
    elif kind == "BertNormalizer":
        found = {
            key: normalizer[key] for key in ("lowercase", "strip_accents") if isinstance(normalizer.get(key), bool)
        }
    elif kind == "Sequence":
        steps = normalizer.get("normalizers")
        for step in steps if isinstance(steps, list) else []:
            found.update(_normalizer(step) if isinstance(step, dict) else {})
    return {key: found[key] for key in ("lowercase", "strip_accents") if key in found}


def _chat_template(files: TokenizerFiles) -> dict[str, Value]:
    """The chat templates. Without `tokenizer_config.json` the reference looks for none."""
    if not files.config:
        return {}
    template = files.config.get("chat_template", _own_file(files))
    if isinstance(template, str):
        return {"tokenizer.chat_template": Value("string", template)}
    if not isinstance(template, list):
        return {}
    values: dict[str, Value] = {}
    default = None
    names = []
    for entry in template:
        name, text = (entry.get("name", ""), entry.get("template")) if isinstance(entry, dict) else ("", None)
        if not isinstance(name, str) or not name or not isinstance(text, str):
            continue
        name = "".join(character if character in ascii_letters + digits else "_" for character in name)
        if name == "default":
            default = text
        else:
            values[f"tokenizer.chat_template.{name}"] = Value("string", text)
            names.append(name)
    if names:
        # The reference writes a set, in any order.
        values["tokenizer.chat_templates"] = Value("array[string]", list(dict.fromkeys(names)))
    if default is not None:
        values["tokenizer.chat_template"] = Value("string", default)
    return values


def _own_file(files: TokenizerFiles) -> Any:
    if files.has("chat_template.jinja"):
        text = files.text("chat_template.jinja")
        others = sorted((files.folder / "additional_chat_templates").glob("*.jinja"))
        if not others:
            return text
        named = [{"name": path.stem, "template": files.text(f"{path.parent.name}/{path.name}")} for path in others]
        return [{"name": "default", "template": text}, *named]
    return files.mapping("chat_template.json").get("chat_template")
