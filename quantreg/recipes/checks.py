"""Problems that keep a plan from being carried out and warnings about it, as sentences that say what to do."""

from collections.abc import Collection, Sequence

from quantreg.ggml import INTEGER_TYPES, PLAIN_TYPES
from quantreg.recipes.builtin import CANNOT_WITHOUT
from quantreg.recipes.calibration import UNCALIBRATED, Calibration
from quantreg.recipes.contradictions import contradictions
from quantreg.recipes.filetype import FileType
from quantreg.recipes.kinds import about_foreign_names, has_foreign_name, nothing_quantized
from quantreg.recipes.layers import incomplete_layers
from quantreg.recipes.model import ModelHeader
from quantreg.recipes.options import PlanOptions, pairs
from quantreg.recipes.plans import TensorPlan

__all__ = ["Checks"]

_ACTIVATIONS = frozenset({"Q8_1", "Q8_K"})  # types that ggml uses for activations only


class Checks:
    """Checks the tensors of a finished plan.

    ``decodable`` holds the ids of the types that can be decoded; ``calibration`` knows the entries of the importance
    matrix that the plan may use.
    """

    def __init__(
        self,
        header: ModelHeader,
        file_type: FileType,
        options: PlanOptions,
        decodable: Collection[int],
        calibration: Calibration,
    ) -> None:
        self.header = header
        self.file_type = file_type
        self.options = options
        self.decodable = decodable
        self.calibration = calibration
        self.has_imatrix: bool = bool(calibration.names)

    def problems(self, tensors: Sequence[TensorPlan], by_rules: Collection[str] = ()) -> tuple[str, ...]:
        """Why the plan cannot be carried out; empty if it can.

        ``by_rules`` are the names of the tensors whose types the file type's rules chose.
        """
        changed = [tensor for tensor in tensors if tensor.converted]
        unsupplied = [tensor for tensor in changed if tensor.needs_importance and tensor.importance is None]
        opaque = [tensor for tensor in changed if tensor.from_id not in self.decodable]
        again = [tensor for tensor in changed if tensor.from_type not in PLAIN_TYPES and tensor not in opaque]
        found = []
        if unsupplied and not self.has_imatrix:
            found.append(
                f"{self.file_type.name} requires an importance matrix for {_those(unsupplied)}. Make one with "
                "`quantreg imatrix MODEL -f TEXT.txt -o imatrix.gguf` and pass it as imatrix (--imatrix), or "
                "choose a type that does not need one, such as Q2_K, IQ3_S or IQ4_XS"
            )
        elif unsupplied:
            found.append(
                f"the imatrix has no entry for {_those(unsupplied)}, which needs importance. Make an imatrix of this "
                'model that covers it, or use on_missing_importance="fallback" (--on-missing-importance fallback), '
                "which gives such tensors a type that does not need importance, or choose a type with tensor_types "
                "(--tensor-type)"
            )
        if unsupplied and self.options.on_missing_importance == "plain":
            stuck = sorted({tensor.to_type for tensor in unsupplied} & CANNOT_WITHOUT)
            if stuck:
                found[-1] += (
                    f'. "plain" does not help, because {" and ".join(stuck)} cannot be encoded without importance'
                )
        if again and not self.options.allow_requantize:
            found.append(
                f"already quantized: {_those(again)}. Quantizing again loses quality: start from the F32, F16 or BF16 "
                "model, or set allow_requantize (--allow-requantize)"
            )
        rounded = [
            tensor for tensor in changed if tensor.to_type in INTEGER_TYPES and tensor.from_type not in INTEGER_TYPES
        ]
        if rounded:
            found.append(
                f"rounding to an integer type would destroy {_those(rounded)}. Choose another type with tensor_types "
                "(--tensor-type), for example Q8_0"
            )
        if opaque:
            found.append(
                f"no installed plugin reads {_those(opaque)}. Install the plugin that provides its type, or use COPY "
                "to keep all tensors as they are"
            )
        foreign = [
            tensor.name
            for tensor in changed
            if tensor.name in by_rules and tensor.to_type not in PLAIN_TYPES and has_foreign_name(tensor.name)
        ]
        if foreign:
            found.append(about_foreign_names(foreign, self.file_type))
        return tuple(found)

    def warnings(self, tensors: Sequence[TensorPlan]) -> tuple[str, ...]:
        """What the user should know about the plan; empty if there is nothing to say."""
        odd = [tensor for tensor in tensors if tensor.converted and tensor.to_type in _ACTIVATIONS]
        names = " and ".join(sorted({tensor.to_type for tensor in odd}))
        found = (
            [f"llama.cpp cannot run weights of type {names}, which ggml uses for activations only: {_those(odd)}"]
            if odd
            else []
        )
        return (
            *self._about_the_model(tensors),
            *found,
            *self._without_importance(tensors),
            *self.calibration.ignored.values(),
        )

    def _about_the_model(self, tensors: Sequence[TensorPlan]) -> tuple[str, ...]:
        """What is wrong with the input itself."""
        names = [info.name for info in self.header.tensors]
        foreign = [tensor.name for tensor in tensors if has_foreign_name(tensor.name)]
        return (
            *incomplete_layers(
                names,
                self.header.metadata,
                pruned=self.options.prune_layers,
                given=dict(pairs(self.options.override_kv)),
            ),
            *contradictions(self.header.tensors, self.header.metadata, given=dict(pairs(self.options.override_kv))),
            *([about_foreign_names(foreign)] if foreign else []),
            *nothing_quantized(self.file_type, tensors, self.header.metadata),
        )

    def _without_importance(self, tensors: Sequence[TensorPlan]) -> tuple[str, ...]:
        if not self.has_imatrix or self.options.include_weights or self.options.exclude_weights:
            return ()
        bare = [
            tensor
            for tensor in tensors
            if tensor.converted and tensor.to_type not in PLAIN_TYPES
            and tensor.importance is None and not tensor.needs_importance
            and tensor.name not in UNCALIBRATED and tensor.name not in self.calibration.ignored
        ]  # fmt: skip
        if not bare:
            return ()
        return (f"the imatrix has no entry for {_those(bare)}: quantized without importance",)


def _those(tensors: Sequence[TensorPlan]) -> str:
    """Name the first tensor and count the others: "blk.0.attn_k.weight (F16 to IQ2_XS) and 83 more"."""
    first = tensors[0]
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return f"{first.name} ({first.from_type} to {first.to_type}){more}"
