"""Warnings about options that have no effect, or an effect that nobody asked for."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from quantreg.recipes.calibration import EMBEDDINGS, Importance
from quantreg.recipes.options import PlanOptions, pairs
from quantreg.recipes.plans import TensorPlan
from quantreg.words import named

if TYPE_CHECKING:
    from quantreg.qtype import QuantType

__all__ = ["without_effect"]

_PLAN = "to change a tensor that is kept, edit its line in a plan (`quantreg plan`, then `quantize --plan`)"


def without_effect(
    options: PlanOptions,
    patterns: "Sequence[tuple[re.Pattern[str], QuantType]]",
    obeyed: Collection[object],
    tensors: Sequence[TensorPlan],
    imatrix: Importance | None,
) -> Iterator[str]:
    """Yield a sentence for each option that has no effect, or an effect that nobody asked for.

    ``obeyed`` holds what decided the type of any tensor: the patterns, and the names of the options.
    """
    for place, (pattern, qtype) in enumerate(patterns):
        if (pattern, qtype) not in obeyed and (why := _ignored(patterns, place, tensors)):
            yield f"tensor type {pattern.pattern}={qtype.name} has no effect: {why}"
    names = {tensor.name for tensor in tensors}
    for option, wanted in (("output_tensor_type", {"output.weight"}), ("token_embedding_type", set(EMBEDDINGS))):
        if getattr(options, option) and option not in obeyed and not names & wanted:
            yield (
                f"{option} has no effect: the model has no {min(wanted, key=len)}: use tensor_types (--tensor-type) "
                "with the name that the tensor has"
            )
    if options.leave_output_tensor and "output.weight" not in names:
        tied = (
            ": token_embd.weight serves as the output, and token_embedding_type (--token-embedding-type) sets its type"
        )
        yield (
            "leave_output_tensor has no effect: the model has no output.weight"
            f"{tied if 'token_embd.weight' in names else ''}"
        )
    yield from _unused_parts(options, imatrix)
    for key, value in pairs(options.override_kv):
        if type(value) is int and -0xFFFFFFFF <= value < 0:
            yield (
                f"override {key}: {value} is stored as {-value}, as in llama-quantize: {key}=i32:{value} stores the "
                "negative number"
            )


def _ignored(
    patterns: "Sequence[tuple[re.Pattern[str], QuantType]]", place: int, tensors: Sequence[TensorPlan]
) -> str | None:
    """Why a pattern decides nothing; None if the tensors have the type anyway."""
    pattern, qtype = patterns[place]
    matched = [tensor for tensor in tensors if pattern.search(tensor.name)]
    if not matched:
        return "no tensor's name matches it"
    if all(tensor.to_type == qtype.name for tensor in matched):
        return None
    first = matched[0]
    count = "the only tensor that matches it" if len(matched) == 1 else f"the {len(matched)} tensors that match it"
    if any(earlier.search(first.name) for earlier, _ in patterns[:place]):
        return f"an earlier pattern decides for {count} ({first.name}): put the more specific pattern first"
    which = named([tensor.name for tensor in matched])
    if first.reason.endswith(": kept"):
        verb = "is" if len(matched) == 1 else "are"
        return f"{count} ({which}) {verb} kept ({first.reason.removesuffix(': kept')}): {_PLAN}"
    return f"{count} ({which}) {'gets' if len(matched) == 1 else 'get'} another type ({first.reason}): {_PLAN}"


def _unused_parts(options: PlanOptions, imatrix: Importance | None) -> Iterator[str]:
    for option in ("include_weights", "exclude_weights"):
        for part in getattr(options, option):
            if imatrix is None:
                yield f"{option} {part!r} has no effect without an imatrix (--imatrix)"
            elif not any(part in name for name in imatrix.entries):
                yield f"{option} {part!r} has no effect: no entry of the imatrix has a name that contains it"
