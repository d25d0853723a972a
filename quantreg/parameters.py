"""What a type fits to a tensor before it encodes it, such as a codebook or a scale, and what a codec may know of it.

A file keeps fitted parameters as F32 tensors beside the weights. So whatever copies, splits, merges or hashes tensors
takes them along.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from quantreg.errors import NonFiniteError, PluginError, ShapeError
from quantreg.faults import PLUGIN_ERRORS, describe
from quantreg.names import layer_of, role_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Fitted: TypeAlias = Mapping[str, NDArray[np.float32]]

__all__ = ["Parameters", "Sample", "TensorContext", "scale_parameters", "without_tokenizer"]


def without_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that a TensorContext holds: all but the tokenizer, which is large and says nothing about weights."""
    return {key: metadata[key] for key in metadata if not key.startswith("tokenizer.")}


@dataclass(frozen=True, slots=True)
class TensorContext:
    """What a codec may know of the tensor whose rows it gets.

    - ``name``: the name of the tensor, or None for a nameless array.
    - ``shape``: the shape of the whole tensor, in NumPy order.
    - ``metadata``: the metadata of the model, without its tokenizer; empty for an array. While a file is quantized,
      ``fit`` and the encoder get the name, the shape and the metadata of the output.
    - ``expert``: which matrix of a stack of experts the rows belong to; 0 if there is only one, None if unknown.
    """

    name: str | None
    shape: tuple[int, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expert: int | None = None

    @property
    def role(self) -> str:
        """What the tensor does in the model: "attn_v", "ffn_down" and so on, or "other"."""
        return role_of(self.name or "")

    @property
    def layer(self) -> int | None:
        """The number of its layer, or None."""
        return layer_of(self.name or "")

    @property
    def n_experts(self) -> int:
        """How many matrices the tensor holds: all dimensions but the last two, multiplied."""
        return math.prod(self.shape[:-2])


class Sample(NamedTuple):
    """A slab of rows for ``fit``: float32 (rows, cols) and the importance of its columns, float32 (cols,), or None.

    ``context`` names the tensor and the expert that the rows belong to.
    """

    rows: "NDArray[np.float32]"
    importance: "NDArray[np.float32] | None"
    context: TensorContext


@dataclass(frozen=True)
class Parameters:
    """What a type fits once per tensor, or once per model, and needs again to decode.

    - ``shapes``: maps the name of each parameter to its shape, or is a function that does so for a TensorContext (for a
      model: for a context without name and shape). Every parameter is float32.
    - ``fit(samples, context)``: gets an iterable of `Sample` and returns a mapping of names to arrays. The samples hold
      all rows of the tensor, in slabs, in order; for a model, those of every tensor that gets the type. ``fit`` may
      stop early. It must give the same result for the same rows, however they are cut into slabs.
    - ``scope``: "tensor" or "model".
    - ``required``: whether the type cannot be decoded without them. If not, arrays are encoded without parameters
      unless the caller passes some.
    - ``applies(context, names)``: whether a file keeps parameters for this tensor; ``names`` are those of the model's
      tensors. By default it always does.

    The file keeps parameter ``codebook`` of ``blk.0.attn_q.weight`` as ``blk.0.attn_q.codebook``, and that of a model,
    for the type MY_Q3, as ``my_q3.codebook``. Raises PluginError for another scope, shapes that are none, and
    ``applies`` with parameters that are required.
    """

    shapes: "Mapping[str, tuple[int, ...]] | Callable[[TensorContext], Mapping[str, tuple[int, ...]]]"
    fit: "Callable[[Iterable[Sample], TensorContext], Mapping[str, ArrayLike]]"
    scope: Literal["tensor", "model"] = "tensor"
    required: bool = True
    applies: "Callable[[TensorContext, Collection[str]], bool] | None" = None

    def __post_init__(self) -> None:
        if self.scope not in ("tensor", "model"):
            raise PluginError(f'the scope of Parameters is {self.scope!r}: use "tensor" or "model"')
        if not callable(self.fit):
            raise PluginError("fit of Parameters is not a function: write fit(samples, context)")
        if self.applies is not None and self.required:
            raise PluginError(
                "Parameters have a function applies, but are required: add required=False, and encode and decode "
                "without parameters where it says no"
            )
        if not callable(self.shapes):
            _check_shapes(self.shapes)

    def shapes_for(self, context: TensorContext) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter for this tensor. Raises PluginError if the plugin's function fails."""
        if not callable(self.shapes):
            return _check_shapes(self.shapes)
        try:
            shapes = self.shapes(context)
        except PLUGIN_ERRORS as error:
            raise PluginError(
                f"{context.name or 'the model'}: shapes of Parameters failed: {describe(error)}: correct the function"
            ) from error
        return _check_shapes(shapes)

    def checked(self, type_name: str, values: "Mapping[str, ArrayLike]", context: TensorContext) -> "Fitted":
        """The values as float32 arrays. Raises ShapeError or NonFiniteError if they are not what `shapes` promises."""
        import numpy as np  # slow to load, and plugin modules must load fast

        where = f"{context.name or 'the tensor'}, parameters of {type_name}"
        shapes = self.shapes_for(context)
        if not isinstance(values, Mapping) or set(values) != set(shapes):
            found = sorted(values) if isinstance(values, Mapping) else f"a {type(values).__name__}"
            raise ShapeError(f"{where}: found {found}, expected a mapping with {sorted(shapes)}")
        checked = {}
        for name, shape in shapes.items():
            try:
                array = np.asarray(values[name]).astype(np.float32, order="C", casting="same_kind", copy=False)
            except (TypeError, ValueError) as error:
                raise ShapeError(f"{where}: {name} is no array of numbers: {error}") from None
            if array.shape != shape:
                raise ShapeError(f"{where}: {name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise NonFiniteError(f"{where}: {name} holds NaN or infinity")
            checked[name] = array
        return checked

    def stored_name(self, type_name: str, tensor: str, parameter: str) -> str:
        """The name under which a file keeps a parameter of this tensor."""
        owner = type_name.lower() if self.scope == "model" else tensor.removesuffix(".weight")
        return f"{owner}.{parameter}"


def _check_shapes(shapes: Any) -> dict[str, tuple[int, ...]]:
    """The shapes as tuples of ints. Raises PluginError if they are none, or if a file could not keep such tensors."""
    try:
        found = {name: tuple(index(n) for n in shape) for name, shape in shapes.items()}
    except (AttributeError, TypeError):
        found = {}
    if not found:
        raise PluginError(
            f"shapes of Parameters are {shapes!r:.80}: give the name and shape of each parameter, as in "
            '{"codebook": (256, 8)}'
        )
    for name, shape in found.items():
        if not isinstance(name, str) or not name.isidentifier() or name in ("weight", "bias"):
            raise PluginError(f'a parameter has the name {name!r}: choose another, such as "codebook" or "scale"')
        if len(shape) > 4 or min(shape, default=0) < 0:
            raise PluginError(f"parameter {name!r} has the shape {shape}: give at most four dimensions of 0 and above")
    return found


def scale_parameters(
    largest: float, applies: "Callable[[TensorContext, Collection[str]], bool] | None" = None
) -> Parameters:
    """Make the parameters of a type with a `quantreg.ScaledCodec`: ``scale``, of shape (1,), or (experts,) for a stack.

    The scale of a matrix is the largest magnitude of its weights divided by ``largest``. ``applies`` is that of
    `Parameters`.
    """

    def shapes(context: TensorContext) -> Mapping[str, tuple[int, ...]]:
        return {"scale": (context.n_experts,)}

    def fit(samples: Iterable[Sample], context: TensorContext) -> "Mapping[str, NDArray[np.float32]]":
        import numpy as np  # slow to load, and plugin modules must load fast

        found = np.zeros(context.n_experts, np.float32)
        for rows, _, of in samples:
            if rows.size:
                expert = of.expert or 0
                found[expert] = max(found[expert], rows.max(), -rows.min())
        scale = found / np.float32(largest)
        scale[scale < np.finfo(np.float32).tiny] = 1
        # Rounding must not push the largest weight beyond what the blocks hold.
        above = found / scale > np.float32(largest)
        return {"scale": np.where(above, np.nextafter(scale, np.float32(np.inf)), scale)}

    return Parameters(shapes, fit, required=False, applies=applies)
