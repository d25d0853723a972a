"""Files of one model at equal size: the ordinary one, and those that calibration text improves."""

import json
import os
import re
from pathlib import Path

import numpy as np

import quantreg
from quantreg import QuantizedTensor
from quantreg.tuning.allocation import Choice, allocate
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.errors import embedding_errors, output_errors
from quantreg.tuning.sensitivity import Sensitivity
from quantreg.tuning.store import Store
from quantreg.tuning.tune import Tuned, tune

__all__ = ["Source"]

# What a tensor may become. Rows that are no multiple of 256 long take the types of the second line only.
CANDIDATES = (
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"),
)
FEW = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")  # not worth their time where the others fit
PROBED = "Q3_K", "IQ4_NL"  # the type whose damage is measured: the first that the rows take
MOST_PROBES = 64  # of a model with more tensors, groups of them are probed together
EMBEDDINGS = "token_embd.weight"


class Source:
    """A model at full precision with its calibration text, and what was measured of them once for all sizes.

    ``cache`` is a file that keeps these measurements, or None.
    """

    def __init__(self, path, text, n_ctx, chunks, folder, cache=None, tell=print):
        self.path, self.folder, self.tell = Path(path), Path(folder), tell
        self.model = quantreg.load(path)
        self.calibration = Calibration.cut(self.model, text, n_ctx, chunks)
        self.imatrix = quantreg.collect_imatrix(
            self.model, text, n_ctx=n_ctx, chunks=chunks, process_output=True, dataset="calibration.txt"
        )
        # llama-imatrix leaves out the output matrix unless it is told otherwise, and so does the base.
        self.usual = {name: self.imatrix[name] for name in self.imatrix if name != "output.weight"}
        self.matrices = [name for name, t in self.model.tensors.items() if t.ndim == 2 and name.endswith(".weight")]
        self._cache, self._key = cache, f"{os.path.getsize(path)} {n_ctx} {len(self.calibration.tokens)}"
        self._measured = None

    def base(self, file_type):
        """Write what llama-quantize writes. Our bytes are the same."""
        path = self.folder / f"{file_type}.gguf"
        quantreg.quantize_file(self.path, path, file_type, self.usual, force=True)
        return path

    def written(self, base, name, tensors):
        """Write a file like ``base`` with some other tensors. Raises ValueError if it is larger."""
        path = self.folder / f"{name}.gguf"
        with quantreg.open(base) as old:
            quantreg.write(path, old.metadata, {n: tensors.get(n, old[n]) for n in old}, force=True)
        if path.stat().st_size > Path(base).stat().st_size:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, its base {Path(base).stat().st_size}")
        return path

    def types_of(self, base):
        """The type of each matrix in a file."""
        with quantreg.open(base) as file:
            return {name: file[name].type_name for name in self.matrices}

    def fed_back(self, types):
        """Encode tensors with feedback. Returns (tensors, how many of them keep it)."""
        wanted = {name: quantreg.types[t] for name, t in types.items()}
        store = Store(self.folder / "store", {"types": types})
        done = tune(self.model, self.calibration, wanted, store)
        kept = sum(one.kept > 0 for one in done if isinstance(one, Tuned))
        shapes = {name: self.model.tensors[name].shape for name in store}
        found = {
            name: QuantizedTensor(name, shapes[name], types[name], path.read_bytes(), store.parameters(name))
            for name, path in store.items()
        }
        store.remove()
        return found, kept

    def ordinary(self, types):
        """Encode tensors with the ordinary encoders and the importance matrix."""
        return {name: self._encoded(name, t) for name, t in types.items()}

    def allocated(self, base, feedback):
        """Choose types of least loss that take no more bytes than the base. Returns (types, predicted loss)."""
        errors, sensitivity = self._measure()
        with quantreg.open(base) as file:
            budget = sum(file[name].nbytes for name in self.matrices)
        choices = {
            name: [
                Choice(t, self._nbytes(name, t), sensitivity[name] * both[bool(feedback)])
                for t, both in errors[name].items()
            ]
            for name in self.matrices
        }
        found = allocate(choices, budget)
        return {name: choice.type for name, choice in found.items()}, sum(choice.loss for choice in found.values())

    def _without_product(self):
        return {EMBEDDINGS} - {self.model.output_name}

    def _encoded(self, name, t):
        tensor = self.model.tensors[name]
        qtype = quantreg.types[t]
        row = None
        if name in self.imatrix:
            row = self.imatrix.row(name, tensor.shape[1])
        elif qtype.requires_importance:
            row = np.ones(tensor.shape[1], np.float32)
        return QuantizedTensor.from_array(name, tensor.dequantize(), t, row if qtype.codec.has_scorer else None)

    def _nbytes(self, name, t):
        rows, cols = self.model.tensors[name].shape
        size = quantreg.types[t].row_bytes(cols) * rows
        return size + -size % 32

    def _candidates(self, name):
        cols = self.model.tensors[name].shape[1]
        fit = [t for t in CANDIDATES if cols % quantreg.types[t].block_size == 0]
        return [t for t in fit if t not in FEW] if "Q3_K" in fit else fit

    def _measure(self):
        """Return (tensor -> type -> (error, error with feedback), tensor -> loss per error)."""
        if self._measured is None:
            kept = json.loads(self._cache.read_text()) if self._cache and self._cache.exists() else {}
            if kept.get("key") != self._key:
                kept = {"key": self._key}
            if "errors" not in kept:
                self.tell("errors of each type")
                kept["errors"] = self._errors()
                self._keep(kept)
            if "sensitivity" not in kept:
                self.tell("sensitivities")
                kept["sensitivity"] = self._sensitivities(kept["errors"])
                self._keep(kept)
            self._measured = kept["errors"], kept["sensitivity"]
        return self._measured

    def _keep(self, kept):
        if self._cache:
            self._cache.write_text(json.dumps(kept) + "\n")

    def _errors(self):
        wanted = {name: [quantreg.types[t] for t in self._candidates(name)] for name in self.matrices}
        alone = self._without_product()
        found = dict(output_errors(self.model, self.calibration, {n: t for n, t in wanted.items() if n not in alone}))
        for name in alone:
            found[name] = embedding_errors(self.model, self.calibration, name, wanted[name])
        return found

    def _sensitivities(self, errors):
        groups = {}
        single = len(self.matrices) <= MOST_PROBES
        for name in self.matrices:
            layer = re.match(r"blk\.(\d+)\.(.*)", name)
            third = int(layer[1]) * 3 // self.model.n_layers if layer else 0
            groups.setdefault((name,) if single or not layer else (layer[2], third), []).append(name)
        found = {}
        with Sensitivity(self.model, self.calibration) as probe:
            for names in groups.values():
                types = {name: next(t for t in PROBED if t in errors[name]) for name in names}
                divergence = probe.divergence(self.ordinary(types))
                total = sum(errors[name][t][0] for name, t in types.items())
                found |= dict.fromkeys(names, divergence / max(total, 1e-12))
        return found
