"""The files of a folder that describe a tokenizer, read with checks: they come from strangers."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from quantreg.errors import TokenizerError
from quantreg.words import listed

__all__ = ["STRING", "TokenizerFiles", "steps_of", "whole_number"]

MAX_BYTES = 1 << 29  # the largest tokenizer.json in use has some 40 MB
_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
STRING: str = r'"(?:[^"\\]++|\\.)*+"'  # one of JSON, as a regular expression
_MERGES = re.compile(r'(?<!\\)"merges"\s*:\s*\[')
_END_OF_MERGES = re.compile(rf'(?:[^"\[\]]++|{STRING}|\[(?:[^"\[\]]++|{STRING})*+\])*+\]', re.DOTALL)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half a character
_POINTER = b"version https://git-lfs.github.com/spec/"


class TokenizerFiles:
    """The tokenizer's files in a folder. Each is read once, when it is first asked for.

    A file that is missing counts as empty. One that is damaged raises TokenizerError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._merges: str | None = None

    def has(self, name: str) -> bool:
        """Say whether the folder has a file of this name."""
        return (self.folder / name).is_file()

    def raw(self, name: str) -> bytes:
        """Return the bytes of a file."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from None
        if len(data) > MAX_BYTES:
            raise TokenizerError(f"{path} has more than {MAX_BYTES >> 20} MB, which no tokenizer needs: check the file")
        if data.startswith(_POINTER):
            raise TokenizerError(
                f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or download it"
            )
        return data

    def text(self, name: str) -> str:
        """Return a file as text."""
        try:
            return self.raw(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"{self.folder / name} is not UTF-8 (byte {error.start}): the file is damaged, download it again"
            ) from None

    def json(self, name: str, shorten: "Callable[[dict[str, Any]], Any] | None" = None) -> Any:
        """Return what a JSON file holds. ``shorten`` says what is kept of each object."""
        return self._parsed(name, self.text(name), shorten)

    def _parsed(self, name: str, text: str, shorten: "Callable[[dict[str, Any]], Any] | None" = None) -> Any:
        def each(pairs: list[tuple[str, Any]]) -> Any:
            found = self._once(name, pairs)
            return found if shorten is None else shorten(found)

        try:
            found = json.loads(text, object_pairs_hook=each)
            if _HALF.search(text):  # it can be written so, but is no text
                json.dumps(found, ensure_ascii=False).encode()
            return found
        except TokenizerError:
            raise
        except UnicodeEncodeError:
            raise TokenizerError(
                f"{self.folder / name} has a text with a lone surrogate, which is no character: the file is damaged, "
                "download it again"
            ) from None
        except ValueError as error:
            raise TokenizerError(
                f"{self.folder / name} is not JSON ({error}): the file is damaged, download it again"
            ) from None
        except RecursionError:
            raise TokenizerError(f"{self.folder / name} is nested too deeply: the file is damaged") from None

    def _once(self, name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise TokenizerError(
                f"{self.folder / name} has the key {twice!r} twice in one object, so that its meaning is not clear: "
                "remove one"
            )
        return found

    def mapping(self, name: str, shorten: "Callable[[dict[str, Any]], Any] | None" = None) -> dict[str, Any]:
        """Return the JSON object in a file; an empty one where there is no file. ``shorten`` is that of `json`."""
        if not self.has(name):
            return {}
        return self._object(name, self.json(name, shorten))

    def _object(self, name: str, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise TokenizerError(f"{self.folder / name} holds {_kind(found)}, not an object: download it again")
        return found

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """`tokenizer.json`. If it has merges, they are null there, and `merges_text` has them."""
        name = "tokenizer.json"
        if not self.has(name):
            return {}
        text = self.text(name)
        begins = list(_MERGES.finditer(text))
        ends = _END_OF_MERGES.match(text, begins[0].end()) if len(begins) == 1 and not _HALF.search(text) else None
        if ends is not None and text[begins[0].end() : ends.end() - 1].strip():
            self._merges = text[begins[0].end() : ends.end() - 1]
            text = f"{text[: begins[0].end() - 1]}null{text[ends.end() :]}"
        return self._object(name, self._parsed(name, text))

    @property
    def merges_text(self) -> str | None:
        """The entries of "merges" in `tokenizer.json`, as they are written, or None if there are none."""
        return self._merges if self.tokenizer else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """`tokenizer_config.json`."""
        return self.mapping("tokenizer_config.json")

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """`config.json`, as it is written."""
        return self.mapping("config.json")

    @property
    def model(self) -> dict[str, Any]:
        """The "model" of `tokenizer.json`."""
        found = self.tokenizer.get("model", {})
        if not isinstance(found, dict):
            raise TokenizerError(f'{self.folder / "tokenizer.json"}: "model" is {_kind(found)}, not an object')
        return found

    @property
    def model_type(self) -> str:
        """The type of the model: "BPE", "WordPiece", "Unigram"; old files do not say it."""
        name = self.model.get("type")
        if isinstance(name, str):
            return name
        vocabulary = self.model.get("vocab")
        if isinstance(vocabulary, list):
            return "Unigram"
        if "merges" in self.model:
            return "BPE"
        return "WordPiece" if "max_input_chars_per_word" in self.model else ""

    @property
    def tokenizer_class(self) -> str:
        """The class that `tokenizer_config.json` names, without "Fast" at its end; empty if it names none."""
        found = self.config.get("tokenizer_class")
        return found.removesuffix("Fast") if isinstance(found, str) else ""

    @cached_property
    def added(self) -> list[dict[str, Any]]:
        """The "added_tokens" of `tokenizer.json`, each with its "id" and "content"."""
        found = self.tokenizer.get("added_tokens") or []
        path = self.folder / "tokenizer.json"
        if not isinstance(found, list):
            raise TokenizerError(f'{path}: "added_tokens" is {_kind(found)}, not a list')
        for entry in found:
            if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
                raise TokenizerError(f'{path}: an entry of "added_tokens" has no "content": {_short(entry)}')
            whole_number(entry.get("id"), f"the id of the added token {entry['content']!r} in {path}")
        return found

    def decoder_entries(self) -> list[tuple[int, dict[str, Any]]]:
        """The "added_tokens_decoder" of `tokenizer_config.json`, as ids and entries."""
        found = self.config.get("added_tokens_decoder") or {}
        path = self.folder / "tokenizer_config.json"
        if not isinstance(found, Mapping):
            raise TokenizerError(f'{path}: "added_tokens_decoder" is {_kind(found)}, not an object')
        entries = []
        for key, entry in found.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
                raise TokenizerError(f'{path}: token {key} of "added_tokens_decoder" has no "content"')
            if not key.isascii() or not key.isdigit() or len(key) > 10:
                raise TokenizerError(f'{path}: {key!r} in "added_tokens_decoder" is no token id')
            entries.append((int(key), entry))
        return entries

    def missing(self, *names: str) -> TokenizerError:
        """Return the error for files that are not there."""
        there = sorted(
            path.name
            for path in self.folder.iterdir()
            if any(part in path.name for part in ("token", "vocab", "merges", "tekken"))
        )
        found = f"; it has {listed(there, 5)}" if there else ""
        advice = "download the tokenizer's files into the folder"
        if any(name.endswith((".tiktoken", "tekken.json")) or name == "tokenizer.model" for name in there):
            advice = (
                "quantreg does not read the format that is there; where transformers does, "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes a tokenizer.json"
            )
        names = tuple(name for name in names if name not in there) or ("tokenizer that is known",)
        return TokenizerError(f"{self.folder} has no {' and no '.join(names)}{found}: {advice}")


def steps_of(step: object) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer, post-processor or decoder one by one, however they are nested."""
    if isinstance(step, dict):
        inner = next((step[key] for key in _INNER if isinstance(step.get(key), list)), None)
        if inner is None:
            yield step
        else:
            for part in inner:
                yield from steps_of(part)


def whole_number(value: object, what: str) -> int:
    """Return a token id that a file gives, or raise TokenizerError if it cannot be one."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise TokenizerError(f"{what} is {_short(value)}, not a number from 0 to 2^31 - 1")
    return value


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:60] + "..."


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {str: "text", list: "a list", dict: "an object", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
