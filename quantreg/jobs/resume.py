"""What the bytes of an output depend on: if all of it is the same, an unfinished run can be continued."""

import hashlib
import json

from quantreg import __version__
from quantreg.jobs.source import stamp_of
from quantreg.registry import registry

__all__ = ["identity_of"]


def identity_of(source, planned, imatrix) -> dict:
    """JSON-ready facts, by the name that an error gives them if they differ."""
    recipe = [[t.name, t.source.name, t.from_type, t.to_type, t.importance, list(t.dims)] for t in planned.tensors]
    return {
        "quantreg": __version__,
        "plugins": sorted({f"{p.distribution} {p.version}" for p in registry.plugins if p.error is None}),
        "source": [list(stamp_of(path)) for path in source.paths],
        "imatrix": _imatrix_digest(imatrix) if any(tensor.importance for tensor in planned.tensors) else None,
        "plan": _digest(json.dumps(recipe).encode()),
    }


def _imatrix_digest(imatrix):
    if imatrix.path is not None:
        with open(imatrix.path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(imatrix.entries):
        digest.update(name.encode() + b"\0" + imatrix.entries[name].tobytes())
    return digest.hexdigest()


def _digest(data):
    return hashlib.blake2b(data, digest_size=16).hexdigest()
