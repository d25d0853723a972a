"""How large each file type makes a model, and which of them fit in a memory together with its context."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fsdecode
from typing import Any

from quantreg.errors import ModelError, PlanError
from quantreg.html import table
from quantreg.inference.memory import RunMemory, run_memory
from quantreg.jobs.adapted import adapt
from quantreg.jobs.inputs import open_source
from quantreg.jobs.rehearsal import rehearse
from quantreg.jobs.source import Source
from quantreg.keywords import names_nearest
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanOptions, file_types
from quantreg.sizes import parse_bytes

__all__ = ["FileEstimate", "ModelEstimate", "estimate_model"]

_BROAD = ("F32", "F16", "BF16", "Q8_0")  # file types that nobody chooses for their quality per bit, but for their size


@dataclass(frozen=True, slots=True)
class FileEstimate:
    """A model in one file type.

    - ``type``: the name of the file type. ``plan``: the `quantreg.Plan` that `quantreg.quantize_file` would carry out.
    - ``file_bytes``: the size of the file, or of all files together, with metadata and padding.
    - ``total``: what it takes to run: the file, its context and working memory. None if the context is unknown.
    - ``fits``: whether the total is within the memory; None if no memory was given.
    """

    type: str
    plan: Plan
    file_bytes: int
    total: int | None
    fits: bool | None

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data per weight."""
        return self.plan.bits_per_weight

    @property
    def needs_imatrix(self) -> bool:
        """Whether a tensor must not be encoded without an imatrix."""
        return any(tensor.needs_importance for tensor in self.plan.tensors)

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON-ready data. ``bytes`` and ``gigabytes`` (10^9 bytes) are those of the tensor data."""
        return {
            "type": self.type,
            "weights": self.plan.n_elements,
            "bytes": self.plan.bytes,
            "gigabytes": self.plan.bytes / 1e9,
            "bits_per_weight": self.bits_per_weight,
            "file_bytes": self.file_bytes,
            "total_bytes": self.total,
            "fits": self.fits,
            "needs_imatrix": self.needs_imatrix,
            "fallbacks": len(self.plan.fallbacks),
            "problems": list(self.plan.problems),
            "warnings": list(self.plan.warnings),
        }


@dataclass(frozen=True, slots=True)
class ModelEstimate:
    """What each file type makes of a model. `estimate_model` returns it.

    - ``file``: the model, and ``size``: the bytes of its tensors now.
    - ``types``: a `FileEstimate` per file type, the smallest file first.
    - ``refused``: file types that cannot be planned, with the reason.
    - ``run``: what the model needs beside its weights; None if this is not known, and ``unknown`` says why.
    - ``memory``: the bytes that the model may take, or None.
    """

    file: str
    size: int
    types: tuple[FileEstimate, ...]
    refused: Mapping[str, str]
    run: RunMemory | None
    unknown: str | None
    memory: int | None

    @property
    def target(self) -> int | None:
        """The most bytes that the file may have to fit, for ``target_size``; 0 if nothing fits. None without memory."""
        if self.memory is None or self.run is None:
            return None
        return max(0, self.memory - self.run.bytes)

    @property
    def best(self) -> FileEstimate | None:
        """The largest of the K- and i-quants, Q8_0, F16 and BF16 that fits; None if none does, or without memory.

        A larger file of these is a better one, which does not hold for the older types. None that is larger than the
        model itself is better than the model.
        """
        found = [
            e for e in self.types if e.fits and e.plan.bytes <= self.size if _is_modern(e.type) or e.type in _BROAD
        ]
        return max(found, key=lambda e: e.file_bytes, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The estimates as JSON-ready data."""
        return {
            "file": self.file,
            "size": self.size,
            "memory": self.memory,
            "run": None if self.run is None else self.run.to_dict(),
            "unknown": self.unknown,
            "target_bytes": self.target,
            "best": None if self.best is None else self.best.type,
            "types": [estimated.to_dict() for estimated in self.types],
            "refused": dict(self.refused),
        }

    def __repr__(self) -> str:
        best = f", best {self.best.type}" if self.best else ""
        return f"<ModelEstimate of {self.file}: {len(self.types)} file types{best}>"

    def _repr_html_(self) -> str:
        return table(
            self.file,
            ("type", "file, bytes", "total, bytes", "bits per weight", "fits"),
            (
                (e.type, e.file_bytes, "" if e.total is None else e.total, e.bits_per_weight, _word(e.fits))
                for e in self.types
            ),
        )


def _word(fits: bool | None) -> str:
    return "" if fits is None else "yes" if fits else "no"


def _is_modern(name: str) -> bool:
    return "_K" in name or name.startswith("IQ")


@names_nearest
def estimate_model(
    src: str | bytes | PathLike[str],
    types: "Iterable[str | int | QuantType | FileType] | str | None" = None,
    *,
    memory: int | str | None = None,
    context: int | None = None,
) -> ModelEstimate:
    """Estimate the file that each file type makes of a model, and what it takes to run it. Reads headers only.

    ``src`` is the path of a GGUF file, of any shard of one, or of a safetensors file or index. ``types`` are those of
    `quantreg.plan`; by default all file types. ``memory`` is what the model may take, as bytes or as text such as
    "8GB" or "7.5GiB". ``context`` is the number of tokens that it must hold, by default 8192, or what the model was
    trained on if that is less. The key-value cache is counted in F16, for one sequence, as llama.cpp lays it out.

    A file type that cannot be planned is listed in ``refused``, unless ``types`` name it. Raises what `quantreg.plan`
    raises; ModelError if ``memory`` or ``context`` is given but the size of the cache is not known.
    """
    limit = None if memory is None else parse_bytes(memory, "memory")
    named = [types] if isinstance(types, (str, QuantType, FileType)) else None if types is None else list(types)
    wanted = [t.name for t in file_types.values() if not t.only_copy] if named is None else named
    source = adapt(open_source(src))
    run, unknown = _run_memory(source, context, asked=memory is not None or context is not None)
    found: dict[str, FileEstimate] = {}
    refused = {}
    for name in wanted:
        try:
            rehearsal = rehearse(src, name, None, PlanOptions(allow_requantize=True))
        except PlanError as error:  # the rows of a tensor do not fit, for example
            if named is not None:
                raise
            refused[str(name)] = str(error)
            continue
        plan = rehearsal.plan
        size = sum(file.size for file in rehearsal.files) or plan.bytes
        total = None if run is None else size + run.bytes
        fits = None if limit is None or total is None else total <= limit
        found[plan.file_type.name] = FileEstimate(plan.file_type.name, plan, size, total, fits)
    ordered = tuple(sorted(found.values(), key=lambda e: e.file_bytes))
    return ModelEstimate(
        fsdecode(src), sum(info.nbytes for info in source.tensors), ordered, refused, run, unknown, limit
    )


def _run_memory(source: Source, context: int | None, asked: bool) -> tuple[RunMemory | None, str | None]:
    """What the model needs beside its weights, or why this is not known. Raises ModelError if it was asked for."""
    rows = next((info.dims[1] for info in source.tensors if info.name == "token_embd.weight" and len(info.dims) > 1), 0)
    try:
        if not rows:
            raise ModelError("it has no tensor token_embd.weight, so it is no language model")
        return run_memory(source.metadata, rows, context), None
    except ModelError as error:
        if asked:
            raise ModelError(f"{source.paths[0]}: the memory that it takes to run is not known: {error}") from error
        return None, str(error)
