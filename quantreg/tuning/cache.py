"""What was measured of a model and does not depend on the target, in a file."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from quantreg import __version__
from quantreg.errors import PlanError
from quantreg.storage import AtomicFile
from quantreg.tuning.errors import RelativeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.tensor import QuantizedTensor

__all__ = ["TuningCache", "identity_of"]

_VERSION = 1
_SAMPLE = 4096  # bytes of each tensor that tell models apart, at its start and in its middle


def identity_of(
    tensors: "Mapping[str, QuantizedTensor]",
    tokens: "NDArray[np.int32] | None",
    importance: "Mapping[str, NDArray[np.float32]]",
    device: str = "cpu",
) -> dict[str, str]:
    """What measurements depend on: the model, the calibration tokens, the importance matrix, versions and the
    identity of the device that ran the model."""
    model, matrix = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        data = tensor.data.reshape(-1)
        model.update(f"{name} {tensor.shape} {tensor.type_name}".encode())
        model.update(data[:_SAMPLE].tobytes())
        model.update(data[len(data) // 2 : len(data) // 2 + _SAMPLE].tobytes())
    for name in sorted(importance):
        matrix.update(name.encode() + importance[name].tobytes())
    text = (
        "none" if tokens is None else hashlib.blake2b(repr(tokens.shape).encode() + tokens.tobytes()).hexdigest()[:32]
    )
    return {
        "model": model.hexdigest(),
        "calibration text": text,
        "importance matrix": matrix.hexdigest(),
        "versions": f"quantreg {__version__}, numpy {np.__version__}, cache {_VERSION}",
        "device": device,
    }


class TuningCache:
    """Errors of tensors and divergences of groups, kept in a file if there is a path.

    - ``errors``: tensor -> type -> its `RelativeError`. ``divergences``: what was changed -> KL divergence in nats.

    Raises PlanError if the file is no such cache, or was made for something else.
    """

    def __init__(self, path: "str | bytes | os.PathLike[str] | None", identity: Mapping[str, str]) -> None:
        self.path: str | None = None if path is None else os.fsdecode(path)
        self.errors: dict[str, dict[str, RelativeError]] = {}
        self.divergences: dict[str, float] = {}
        self._identity = dict(identity)
        if self.path is not None and os.path.exists(self.path):
            self._read(self.path)

    def _read(self, path: str) -> None:
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                identity = json.loads(str(file["identity"]))
                names = [str(name) for name in file["tensors"]]
                types = [str(name) for name in file["types"]]
                errors, keys, values = file["errors"], file["probes"], file["divergences"]
                divergences = {str(key): float(value) for key, value in zip(keys, values, strict=True)}
                for name, row in zip(names, errors, strict=True):
                    pairs = zip(types, row, strict=True)
                    known = {key: RelativeError(*map(float, pair)) for key, pair in pairs if not np.isnan(pair[0])}
                    self.errors[name] = known
        except (ValueError, LookupError, EOFError, TypeError, AttributeError, BadZipFile) as error:
            raise PlanError(f"{path}: not a tuning cache ({error}): give the name of a new file") from None
        except OSError as error:
            raise PlanError(f"{path}: cannot read the tuning cache: {error.strerror or error}") from None
        differs = [key for key in self._identity if identity.get(key) != self._identity[key]]
        if differs:
            raise PlanError(
                f"{path}: this tuning cache was made with another {differs[0]}: give the name of a new file, or "
                "delete it"
            )
        self.divergences = divergences

    def save(self) -> None:
        """Write what is known to the file, if there is one."""
        if self.path is None:
            return
        names = sorted(self.errors)
        types = sorted({key for errors in self.errors.values() for key in errors})
        table = np.full((len(names), len(types), 2), np.nan)
        for i, name in enumerate(names):
            for key, error in self.errors[name].items():
                table[i, types.index(key)] = error
        probes = sorted(self.divergences)
        out = io.BytesIO()
        np.savez(
            out, identity=json.dumps(self._identity), tensors=np.array(names, np.str_), types=np.array(types, np.str_),
            errors=table, probes=np.array(probes, np.str_), divergences=np.array([self.divergences[k] for k in probes]),
        )  # fmt: skip
        with AtomicFile(self.path, force=True) as file:
            file.write(out.getvalue())
