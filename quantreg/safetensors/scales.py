"""Which tensors of a model are stored as codes with scales, and which formats quantreg refuses to guess about."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from quantreg.errors import SafetensorsError
from quantreg.ggml import FLOAT_TYPES
from quantreg.safetensors.header import Entry
from quantreg.safetensors.stored import FP8, Part, Stored, blocks_of, to_floats

__all__ = ["Decoding", "Place", "decoding"]

_MARKER = "scaled_fp8"  # ComfyUI: the model has FP8 weights with `scale_weight`
# Tensors beside LAYER.weight that say how to quantize activations or which kernel to call.
_BESIDE = ("input_scale", "scale_input", "output_scale", "comfy_quant")
_CACHE = ("k_scale", "v_scale", "q_scale", "prob_scale")  # one number each, for the attention cache
_SCALE_TYPES = ("F32", "F16", "BF16", "F64")


class Place(NamedTuple):
    """A tensor of a file: its file's number and path, the position of its data, and its entry in the header."""

    file: int
    path: str
    position: int
    entry: Entry

    @property
    def part(self) -> Part:
        """The same place, as `Stored` describes it."""
        return Part(self.file, self.position, self.entry.dtype, self.entry.shape)


class Decoding(NamedTuple):
    """How to read a model: ``stored`` by the name of the tensor, and the names that belong to these tensors.

    ``note`` is a sentence for the user, or None if nothing is decoded.
    """

    stored: dict[str, Stored]
    consumed: frozenset[str]
    note: str | None


def decoding(places: Mapping[str, Place], left_out: Collection[str], read: Callable[[Place], bytes]) -> Decoding:
    """Find the tensors of FP8 and their scales. ``places`` maps the names of all tensors of all files.

    ``left_out`` names tensors that the user leaves out, and ``read(place)`` returns the data of a tensor; it is called
    for single numbers only. Raises SafetensorsError for formats that quantreg does not know, and for scales that do
    not fit.
    """
    wanted = {name: place for name, place in places.items() if name not in left_out}
    for name, place in wanted.items():
        _refuse_unknown(name, place, places)
    eight_bits = [name for name, place in wanted.items() if place.entry.dtype in FP8 and not _is_marker(name)]
    markers = {name for name in places if _is_marker(name)}
    if not eight_bits and not markers:
        return Decoding({}, frozenset(), None)
    stored: dict[str, Stored] = {}
    consumed = set(markers)
    scaled = 0
    for name, place in wanted.items():
        is_fp8 = place.entry.dtype in FP8
        if name in markers or not (is_fp8 or place.entry.dtype in FLOAT_TYPES):
            continue
        scale = _scale_of(name, places) if is_fp8 else _comfy_scale(name, places)
        if scale is not None:
            consumed.add(scale)
        if is_fp8 or scale is not None:
            found = _stored(place, None if scale is None else places[scale], read)
            if found is not None:
                stored[name] = found
                scaled += is_fp8 and scale is not None
        layer = name.removesuffix("weight")
        if layer != name:
            consumed.update(layer + part for part in _BESIDE if layer + part in places)
    for name, place in places.items():
        if name.rpartition(".")[2] in _CACHE and math.prod(place.entry.shape) == 1:
            consumed.add(name)
    kinds = " and ".join(sorted({places[name].entry.dtype for name in eight_bits}))
    note = None
    if eight_bits:
        count, scales = f"{len(eight_bits)} tensors are", f"{scaled} of them with scales"
        if len(eight_bits) == 1:
            count, scales = "1 tensor is", "with scales" if scaled else "without scales"
        note = f"{count} stored as {kinds}, {scales}: decoded to floats before anything else"
    return Decoding(stored, frozenset(consumed - stored.keys()), note)


def _is_marker(name: str) -> bool:
    return name.rpartition(".")[2] == _MARKER


def _scale_of(name: str, places: Mapping[str, Place]) -> str | None:
    """The name of the scales of an FP8 tensor."""
    found = [scale for scale in (f"{name}_scale_inv", f"{name}_scale") if scale in places]
    found += [scale for scale in (_comfy_scale(name, places),) if scale is not None]
    if len(found) > 1:
        raise SafetensorsError(
            f"{places[name].path}: tensor {name!r:.80} has two tensors of scales, {found[0]} and {found[1]}: leave one "
            "of them out of the file"
        )
    return found[0] if found else None


def _comfy_scale(name: str, places: Mapping[str, Place]) -> str | None:
    scale = f"{name.removesuffix('weight')}scale_weight"
    return scale if name.endswith(".weight") and scale in places else None


def _stored(place: Place, scale: Place | None, read: Callable[[Place], bytes]) -> Stored | None:
    """How to read a tensor, or None if it is read as it is: floats with a scale of 1."""
    codes, name = place.part, place.entry.name
    if scale is None:
        return Stored(codes, "BF16")  # which holds every value of FP8
    part = scale.part
    if part.dtype not in _SCALE_TYPES and not (part.dtype == "F8_E8M0" and scale.entry.name.endswith("_scale_inv")):
        raise SafetensorsError(
            f"{scale.path}: tensor {name!r:.80} has scales of type {part.dtype}, as MXFP8 has: quantreg does not know "
            "their order. Start from the BF16 or F16 model"
        )
    if math.prod(part.shape) == 1:
        value = float(to_floats(np.frombuffer(read(scale), np.uint8), part.dtype)[0])
        if place.entry.dtype in FLOAT_TYPES and value == 1:
            return None
        exact = place.entry.dtype in FP8 and math.frexp(value)[0] == 0.5 and 2.0**-64 <= value <= 2.0**64
        return Stored(codes, "BF16" if exact else "F32", value)
    block = blocks_of(codes.shape, part.shape)
    if block is None:
        raise SafetensorsError(
            f"{place.path}: tensor {name!r:.80} of shape {list(codes.shape)} has scales {scale.entry.name!r:.80} of "
            f"shape {list(part.shape)}, but expected one, one per row, or one per block of 128 x 128: start from the "
            "BF16 or F16 model"
        )
    return Stored(codes, "F32", scales=part, block=block)


# A tensor of this name (and of one of these types, if any are given) marks a format that is not decoded.
_UNKNOWN = (
    ("qweight", ("I32", "U32"), "packed integers, as GPTQ and AWQ store them"),
    ("weight_packed", (), "packed integers, as compressed-tensors stores them"),
    ("absmax", (), "part of a model that bitsandbytes quantized"),
    ("SCB", (), "part of a model that bitsandbytes quantized to 8 bits"),
    ("weight_scale_2", (), "the second scale of NVFP4"),
    ("weight_global_scale", (), "the second scale of NVFP4"),
    ("pre_quant_scale", (), "a scale of the inputs, as in AWQ and SVDQuant"),
    ("weight_zero_point", (), "the zero point of integers"),
)


def _refuse_unknown(name: str, place: Place, places: Mapping[str, Place]) -> None:
    """Raise SafetensorsError for a tensor whose values mean nothing without a decoder that quantreg does not have."""
    last, dtype = name.rpartition(".")[2], place.entry.dtype
    scaled = any(f"{name}{suffix}" in places for suffix in ("_scale", "_scale_inv")) or _comfy_scale(name, places)
    what = next((words for part, dtypes, words in _UNKNOWN if last == part and (not dtypes or dtype in dtypes)), None)
    if "bitsandbytes__" in last:
        what = "part of a model that bitsandbytes quantized"
    elif name.endswith("_blocks") and dtype == "U8" and f"{name.removesuffix('blocks')}scales" in places:
        what = "packed 4-bit floats, as gpt-oss stores them"
    elif dtype == "U32" and f"{name.removesuffix('weight')}scales" in places:
        what = "packed integers, as MLX stores them"
    elif dtype in ("I8", "U8") and scaled:
        what = "integers with scales"
    if what is not None:
        raise SafetensorsError(
            f"{place.path}: tensor {name!r:.80} is {what}, and quantreg does not decode this format: start from the "
            "BF16, F16 or FP8 model"
        )
