"""What a user may ask of a plan, and the llama-quantize spelling of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from quantreg.errors import PlanError

__all__ = ["PlanOptions", "parse_layers", "parse_override", "parse_tensor_type"]

MISSING = ("error", "plain", "fallback")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of `plan`; each has llama-quantize's meaning.

    - ``pure``: no mixture; every tensor that may be quantized gets the file type's own type.
    - ``leave_output_tensor``: output.weight keeps its type.
    - ``output_tensor_type``, ``token_embedding_type``: a type for the output, the token embeddings.
    - ``tensor_types``: pairs (regular expression, type); the first that is found anywhere in a tensor's name decides.
    - ``allow_requantize``: tensors that are quantized already may be quantized again.
    - ``override_kv``: pairs (key, bool | int | float | str) for the metadata; the rules see them too.
    - ``prune_layers``: layer numbers to leave out.
    - ``include_weights``, ``exclude_weights``: use only, or do not use, the imatrix entries with one of these in their
      name.
    - ``on_missing_importance``: what becomes of a tensor that is to get a type which needs importance, when the imatrix
      has none for it: "error"; "plain" encodes it without, where the type can; "fallback" gives it a type that does
      without (ours).
    - ``keep_split``: one output file for each file of the source, tensors in the source's order.
    - ``no_fallback``: refuse instead of falling back where a row does not divide into blocks (ours).
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
    no_fallback: bool = False

    def __post_init__(self) -> None:
        for name in ("tensor_types", "override_kv"):
            pairs = getattr(self, name)
            pairs = tuple(tuple(pair) for pair in (pairs.items() if isinstance(pairs, Mapping) else pairs))
            if any(len(pair) != 2 for pair in pairs):
                raise PlanError(f"{name}: expected pairs, got {pairs}")
            object.__setattr__(self, name, pairs)
        for name in ("prune_layers", "include_weights", "exclude_weights"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.on_missing_importance not in MISSING:
            raise PlanError(f"on_missing_importance is {self.on_missing_importance!r}: expected {', '.join(MISSING)}")
        if self.include_weights and self.exclude_weights:
            raise PlanError("include_weights and exclude_weights cannot be used together: give one of them")

    def changed(self) -> list[str]:
        """The names of the options that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


def parse_tensor_type(text: str) -> tuple[str, str]:
    """``PATTERN=TYPE`` of a command line as an item of ``tensor_types``. The pattern is lowercased, as llama-quantize
    does.

    Raises PlanError for a missing part. The type's name is checked by `plan`.
    """
    pattern, equals, type_name = text.partition("=")
    if not (pattern and equals and type_name):
        raise PlanError(f"tensor type {text!r}: expected PATTERN=TYPE, for instance attn_v=q8_0")
    return pattern.translate(_ASCII_LOWER), type_name


def parse_override(text: str) -> tuple[str, bool | int | float | str]:
    """``KEY=int:N``, ``KEY=float:X``, ``KEY=bool:true`` or ``KEY=str:TEXT`` as an item of ``override_kv``.

    Raises PlanError for anything else, and for a key or text above 127 bytes.
    """
    key, _, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not key or not colon or len(key.encode()) > 127:
        raise PlanError(f"override {text!r}: expected KEY=TYPE:VALUE with TYPE int, float, bool or str")
    try:
        match kind:
            case "int":
                return key, int(value)
            case "float":
                return key, float(value)
            case "bool":
                return key, {"true": True, "false": False}[value]
            case "str" if len(value.encode()) <= 127:
                return key, value
    except (KeyError, ValueError):
        pass
    raise PlanError(f"override {text!r}: {value!r} is no {kind} (a bool is true or false, a str has up to 127 bytes)")


def parse_layers(text: str) -> tuple[int, ...]:
    """``1,3,20`` as ``prune_layers``. Raises PlanError for what is no layer number."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise PlanError(f"layers {text!r}: expected numbers with commas between, for instance 1,3,20")
    return tuple(int(part) for part in parts)


_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
