"""What keeps a plan from being carried out, or deserves a word, in sentences that say what to do."""

from quantreg.ggml import INTEGER_TYPES, PLAIN_TYPES
from quantreg.recipes.plans import TensorPlan

__all__ = ["Checks"]

ACTIVATIONS = frozenset({"Q8_1", "Q8_K"})


class Checks:
    """Looks at the tensors of a finished plan."""

    def __init__(self, file_type, options, decodable, has_imatrix):
        self.file_type, self.options, self.decodable, self.has_imatrix = file_type, options, decodable, has_imatrix

    def problems(self, tensors: list[TensorPlan]) -> tuple[str, ...]:
        """Why the plan cannot be carried out; empty if it can."""
        changed = [tensor for tensor in tensors if tensor.converted]
        unsupplied = [tensor for tensor in changed if tensor.needs_importance and tensor.importance is None]
        opaque = [tensor for tensor in changed if tensor.from_id not in self.decodable]
        again = [tensor for tensor in changed if tensor.from_type not in PLAIN_TYPES and tensor not in opaque]
        found = []
        if unsupplied and not self.has_imatrix:
            found.append(
                f"{self.file_type.name} requires an importance matrix: {_those(unsupplied)}. Make one with "
                f"`llama-imatrix -m MODEL.gguf -f TEXT.txt -o imatrix.gguf` and give it as imatrix (--imatrix), or "
                f"choose a type that does without, such as Q2_K, IQ3_S or IQ4_XS"
            )
        elif unsupplied:
            found.append(
                f"the imatrix has no entry for {_those(unsupplied)}, which cannot be quantized well without. Make an "
                f"imatrix of this model that covers it, or give it another type with tensor_types (--tensor-type)"
            )
        if again and not self.options.allow_requantize:
            found.append(
                f"already quantized: {_those(again)}. Quantizing again loses quality: start from the F32, F16 or BF16 "
                f"model, or set allow_requantize (--allow-requantize)"
            )
        rounded = [
            tensor for tensor in changed if tensor.to_type in INTEGER_TYPES and tensor.from_type not in INTEGER_TYPES
        ]
        if rounded:
            found.append(
                f"whole numbers would keep next to nothing of {_those(rounded)}. Give another type with tensor_types "
                f"(--tensor-type), for instance Q8_0"
            )
        if opaque:
            found.append(
                f"no installed plugin reads {_those(opaque)}. Install the plugin that provides its type, or use COPY "
                f"to keep all tensors as they are"
            )
        return tuple(found)

    def warnings(self, tensors: list[TensorPlan]) -> tuple[str, ...]:
        """What the user should know; empty if nothing."""
        odd = [tensor for tensor in tensors if tensor.converted and tensor.to_type in ACTIVATIONS]
        found = [f"ggml keeps only activations in it, llama.cpp runs no such weights: {_those(odd)}"] if odd else []
        return (*found, *self._without_importance(tensors))

    def _without_importance(self, tensors):
        if not self.has_imatrix or self.options.include_weights or self.options.exclude_weights:
            return ()
        bare = [
            tensor
            for tensor in tensors
            if tensor.converted and tensor.to_type not in PLAIN_TYPES and tensor.importance is None
            and tensor.name not in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight")
        ]  # fmt: skip
        return (f"quantized without importance, as the imatrix has no entry for it: {_those(bare)}",) if bare else ()


def _those(tensors: list[TensorPlan]) -> str:
    """For instance "blk.0.attn_k.weight (F16 to IQ2_XS) and 83 more"."""
    first = tensors[0]
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return f"{first.name} ({first.from_type} to {first.to_type}){more}"
