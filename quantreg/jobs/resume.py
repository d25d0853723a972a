"""What the bytes of an output depend on. An unfinished run is continued only if all of it is unchanged."""

import hashlib
import json
from typing import Any

from quantreg import __version__
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.source import Source, stamp_of
from quantreg.recipes import Plan
from quantreg.registry import registry

__all__ = ["identity_of"]


def identity_of(source: Source, planned: Plan, imatrix: ImportanceMatrix | None) -> dict[str, Any]:
    """JSON-ready facts about a run, under the names by which an error mentions them if they differ."""
    recipe = [[t.name, t.source.name, t.from_type, t.to_type, t.importance, list(t.dims)] for t in planned.tensors]
    used = any(tensor.importance for tensor in planned.tensors)
    return {
        "quantreg": __version__,
        "plugins": sorted({f"{p.distribution} {p.version}" for p in registry.plugins if p.error is None}),
        "source": [list(stamp_of(path)) for path in source.paths],
        "imatrix": None if imatrix is None or not used else _imatrix_digest(imatrix),
        "plan": _digest(json.dumps(recipe).encode()),
    }


def _imatrix_digest(imatrix: ImportanceMatrix) -> str:
    if imatrix.path is not None:
        with open(imatrix.path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(imatrix.entries):
        digest.update(name.encode() + b"\0" + imatrix.entries[name].tobytes())
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
