"""The model and the text of a run with a calibration text, and what identifies them."""

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg import __version__, files
from quantreg.errors import PlanError, QualityError
from quantreg.inference.model import Model
from quantreg.jobs.rehearsal import Rehearsal
from quantreg.jobs.source import stamp_of
from quantreg.jobs.tuned_parts import arithmetic
from quantreg.quality import read_text
from quantreg.recipes.plans import edited
from quantreg.tuning.calibration import Calibration
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg.devices import DeviceLike
    from quantreg.jobs.tuning_options import TuningOptions

__all__ = ["calibration_of", "identity_with_text", "model_of"]

_FEWEST = 3  # chunks: two that fit, and one that decides


def model_of(file: files.File, first: Rehearsal, threads: int | None, device: "DeviceLike | None") -> Model:
    """The model as the output will have it: without pruned layers, and with the metadata that was overridden."""
    planned = first.plan
    if not first.source.is_described:
        raise PlanError(
            f"{first.source.paths[0]}: calibration needs a model that quantreg can run, and safetensors files alone do "
            "not say how: give the folder that holds its config.json"
        )
    if planned.options.prune_layers or planned.options.override_kv:
        metadata = edited(file.metadata, planned.metadata)
        tensors = {tensor.name: file[tensor.source.name] for tensor in planned.tensors}
        return Model(metadata, tensors, threads=threads, device=device, file=file)
    return Model(file.metadata, file, threads=threads, device=device, file=file)


def calibration_of(model: Model, options: "TuningOptions") -> Calibration:
    """The calibration text as tokens. Several texts are parted one by one, so that each has a share in each part."""
    given = options.calibration
    if isinstance(given, Calibration):
        return given
    texts = [read_text(text) if isinstance(text, os.PathLike) else text for text in options.texts]
    each = [Calibration.cut(model, text, options.n_ctx, options.chunks) for text in texts]
    if options.chunks is not None and len(each) > 1:
        most = max(1, options.chunks // len(each))
        each = [Calibration.cut(model, text, options.n_ctx, most) for text in texts]
    found = Calibration.joined(each)
    if len(found.tokens) < _FEWEST:
        raise QualityError(
            f"the calibration text has {count(len(found.tokens), 'chunk')} of {options.n_ctx} tokens, but at least "
            f"{_FEWEST} are needed, some of which only check the result: give a longer text, or shorter chunks (-c)"
        )
    return found


def identity_with_text(first: Rehearsal, calibration: Calibration, model: Model, across_layers: bool) -> dict[str, Any]:
    """JSON-ready facts on which the results depend, besides the plan, under the names by which errors mention them.

    Sums of floating-point numbers depend on the BLAS, on the CPU that it is made for, and on the device.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(calibration.tokens).data, digest_size=16).hexdigest()
    return {
        "quantreg": __version__,
        "source": [list(stamp_of(path)) for path in first.source.paths],
        "calibration": [digest, list(calibration.tokens.shape)],
        "arithmetic": arithmetic(),
        "device": model.device.identity,
        "across_layers": across_layers,
    }
