"""What a user may ask of a plan, and how llama-quantize's command line spells it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar

from quantreg.errors import PlanError
from quantreg.recipes.values import TYPE_NAMES, TypedValue, parse_value

__all__ = ["PlanKeywords", "PlanOptions", "pairs", "parse_layers", "parse_override", "parse_tensor_type"]

_ON_MISSING = ("error", "plain", "fallback")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of `plan`. Each has the same meaning as in llama-quantize, except those that are marked.

    - ``pure``: no mixture; every tensor that may be quantized gets the file type's own type.
    - ``leave_output_tensor``: output.weight keeps its type.
    - ``output_tensor_type``, ``token_embedding_type``: the type of the output tensor and of the token embeddings.
    - ``tensor_types``: pairs (regular expression, type). The first expression that matches anywhere in a tensor's name
      decides its type.
    - ``allow_requantize``: tensors that are already quantized may be quantized again.
    - ``override_kv``: pairs (key, bool | int | float | str) for the metadata, or (key, `gguf.Value`) for other types.
      As in llama-quantize, an int is stored as the u32 of its absolute value. The rules see these values, too.
    - ``prune_layers``: the numbers of layers to leave out.
    - ``include_weights``, ``exclude_weights``: use only, or do not use, the imatrix entries whose name contains one of
      these strings. The two cannot be combined.
    - ``on_missing_importance`` (not in llama-quantize): what to do with a tensor that needs importance and has none.
      "error" refuses the plan; "plain" encodes it without importance if the type allows that; "fallback" gives it a
      type that does not need importance.
    - ``keep_split``: write one output file per file of the source, with the tensors in the source's order.
    - ``keep_dims`` (not in llama-quantize): tensors keep trailing dimensions of 1, in ne order, which llama-quantize
      drops: a shape of (1, 256) would become (256,). Tensors of a safetensors model always keep them.
    - ``no_fallback`` (not in llama-quantize): refuse the plan instead of using another type if a row does not divide
      into blocks.
    - ``imatrix_floor`` (not in llama-quantize): raise the importance of each column to at least this many times the
      mean of its row, from 0 (leave it as it is) to 1. Small values such as 0.01 keep the weights of columns that
      calibration did not use.

    Raises PlanError for values that have the wrong form.
    """

    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    allow_requantize: bool = False
    override_kv: Mapping[str, Any] | Sequence[tuple[str, Any]] = ()
    prune_layers: Sequence[int] = ()
    include_weights: str | Sequence[str] = ()
    exclude_weights: str | Sequence[str] = ()
    on_missing_importance: str = "error"
    keep_split: bool = False
    keep_dims: bool = False
    no_fallback: bool = False
    imatrix_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tensor_types", "override_kv"):
            given = getattr(self, name)
            found = () if isinstance(given, str) else tuple(pairs(given))
            if isinstance(given, str) or any(isinstance(pair, str) or len(pair) != 2 for pair in found):
                raise PlanError(
                    f"{name} is {given!r:.80}: pass a mapping, as in {_EXAMPLE[name]}, or a sequence of pairs"
                )
            found = tuple(tuple(pair) for pair in found)
            object.__setattr__(self, name, found)
        for name in ("prune_layers", "include_weights", "exclude_weights"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.on_missing_importance not in _ON_MISSING:
            raise PlanError(
                f"on_missing_importance is {self.on_missing_importance!r}, expected one of {', '.join(_ON_MISSING)}"
            )
        floor = self.imatrix_floor
        if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor <= 1:
            raise PlanError(f"imatrix_floor is {floor!r}, expected a number from 0 to 1, such as 0.01")
        object.__setattr__(self, "imatrix_floor", float(floor))
        if self.include_weights and self.exclude_weights:
            raise PlanError("include_weights and exclude_weights cannot be used together: pass only one of them")

    def changed(self) -> list[str]:
        """The names of the options that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


class PlanKeywords(TypedDict, total=False):
    """The fields of `PlanOptions` as keyword arguments, for type checkers."""

    pure: bool
    leave_output_tensor: bool
    output_tensor_type: str | None
    token_embedding_type: str | None
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]]
    allow_requantize: bool
    override_kv: Mapping[str, Any] | Sequence[tuple[str, Any]]
    prune_layers: Sequence[int]
    include_weights: str | Sequence[str]
    exclude_weights: str | Sequence[str]
    on_missing_importance: str
    keep_split: bool
    keep_dims: bool
    no_fallback: bool
    imatrix_floor: float


_EXAMPLE = {"tensor_types": '{"ffn_down": "Q6_K"}', "override_kv": '{"general.name": "mine"}'}


def pairs(given: Mapping[str, T] | Sequence[tuple[str, T]]) -> tuple[tuple[str, T], ...]:
    """The pairs of an option that may be a mapping or a sequence of pairs."""
    return tuple(given.items() if isinstance(given, Mapping) else given)


def parse_tensor_type(text: str) -> tuple[str, str]:
    """Parse ``PATTERN=TYPE`` from a command line into an item of ``tensor_types``.

    The pattern becomes lower case, as in llama-quantize. Raises PlanError if a part is missing; `plan` checks the name
    of the type.
    """
    pattern, equals, type_name = text.partition("=")
    if not (pattern and equals and type_name):
        raise PlanError(f"tensor type {text!r:.80}: expected PATTERN=TYPE, for example attn_v=q8_0")
    return pattern.translate(_ASCII_LOWER), type_name


def parse_override(text: str) -> tuple[str, bool | int | float | str | TypedValue]:
    """Parse ``KEY=TYPE:VALUE`` into an item of ``override_kv``.

    TYPE is one of llama-quantize's (``int``, ``float``, ``bool`` and ``str``), which give a Python object, or one of
    GGUF's (``u8`` to ``u64``, ``i8`` to ``i64``, ``f32``, ``f64``, ``string`` and ``array[TYPE]``), which give a
    `TypedValue`. Raises PlanError for any other form, for a key of more than 127 bytes, and for a ``str`` of more.
    """
    key, _, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not key or not colon or len(key.encode()) > 127:
        raise PlanError(
            f"override {text!r}: expected KEY=TYPE:VALUE with a KEY of up to 127 bytes; TYPE is {TYPE_NAMES}"
        )
    if kind == "str" and len(value.encode("utf-8", "surrogateescape")) > 127:
        raise PlanError(
            f"override {key}: the text is longer than 127 bytes, llama-quantize's limit: use {key}=string:..."
        )
    try:
        parsed = parse_value(kind, value)
    except ValueError as error:
        raise PlanError(f"override {text!r}: {error}") from None
    return key, parsed.data if kind in ("int", "float", "bool", "str") else parsed


def parse_layers(text: str) -> tuple[int, ...]:
    """Parse ``1,3,20`` into ``prune_layers``. Raises PlanError for anything that is not a layer number."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise PlanError(f"layers {text!r}: expected numbers separated by commas, for example 1,3,20")
    return tuple(int(part) for part in parts)
