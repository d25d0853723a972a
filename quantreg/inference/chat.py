"""Chat templates: Jinja programs in the metadata of a model, which turn a conversation into its prompt.

They are written for the transformers library, and see here what they see there.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from quantreg.errors import ModelError

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["prompt"]

_INSTALL = 'pip install "jinja2>=3.1.6"'
_KEY = "tokenizer.chat_template"
_TOKENS = ("bos", "eos", "unknown", "separator", "padding", "cls", "mask")
_NAMES = {"unknown": "unk", "separator": "sep", "padding": "pad"}  # transformers' words for them


def prompt(metadata: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
    """Return the text that the chat template of a model makes of a conversation.

    ``messages`` are mappings with the keys "role" and "content", as in ``{"role": "user", "content": "Hello"}``. With
    ``answer`` the text ends where the answer of the model begins. Raises ModelError if the model has no template, if
    the template cannot be read or refuses the messages, or if jinja2 is not installed.
    """
    source = metadata.get(_KEY)
    if not isinstance(source, str) or not source.strip():
        raise ModelError(
            f"the model has no chat template (the metadata key {_KEY}): it may not be made for conversations; give it "
            "a text to go on with, without --chat"
        )
    template = _compiled(source)
    try:
        return template.render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=answer,
            **_special_tokens(metadata),
        )
    except _RefusalError as error:
        raise ModelError(f"the chat template of the model refuses the messages: {error}") from None
    except Exception as error:  # a template is a program, and may raise anything
        raise ModelError(f"the chat template of the model fails: {type(error).__name__}: {error}") from error


class _RefusalError(Exception):
    """What a template raised by its own choice."""


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    found = {}
    for token in _TOKENS:
        id = metadata.get(f"tokenizer.ggml.{token}_token_id")
        if isinstance(id, int) and 0 <= id < len(tokens):
            found[f"{_NAMES.get(token, token)}_token"] = str(tokens[id])
    return found


@cache
def _compiled(source: str) -> "Template":
    try:  # jinja2 is an extra: quantreg needs it for nothing else
        import jinja2
        from jinja2 import nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ModelError(f"a chat template needs jinja2, which is not installed: {_INSTALL}") from None
    if tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3]) < (3, 1, 6):
        raise ModelError(
            f"jinja2 {jinja2.__version__} does not hold a hostile chat template back, and 3.1.6 does: {_INSTALL}"
        )

    class Generation(Extension):
        """The block ``{% generation %}``, which marks what the model said. It changes nothing in the text."""

        tags = {"generation"}  # noqa: RUF012, as jinja2 declares it

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return [nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True))]

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template of the model is no valid Jinja template: line {error.lineno}: {error.message}"
        ) from error


def _to_json(
    x: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is. The filter of jinja2 would escape what HTML cannot hold."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> NoReturn:
    raise _RefusalError(str(message))


def _now(format: str) -> str:
    return datetime.now().strftime(format)
