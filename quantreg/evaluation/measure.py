"""Measure types on a model: error, size and speed on a random sample of its rows."""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import quantreg
from quantreg import files
from quantreg.errors import PlanError
from quantreg.evaluation.results import Conditions, Evaluation, Failed, Measure, Skipped
from quantreg.evaluation.round_trip import Matrices, fit_model, parameter_bytes, round_trip, warm_up
from quantreg.evaluation.sums import Sums, added, finished, summed
from quantreg.evaluation.targets import Target, make_target
from quantreg.faults import told
from quantreg.ggml import INTEGER_TYPES
from quantreg.importance import ImatrixLike, ImportanceMatrix
from quantreg.keywords import names_nearest
from quantreg.parameters import TensorContext, without_tokenizer
from quantreg.qtype import QuantType
from quantreg.recipes import FileType
from quantreg.recipes.calibration import EMBEDDINGS
from quantreg.recipes.catalog import type_or_file_type
from quantreg.registry import registry, types

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.evaluation.reading import Reading, Report, Text
    from quantreg.parameters import Fitted

__all__ = ["Evaluation", "Failed", "Measure", "Skipped", "Step", "built_in_types", "evaluate"]

_SAMPLE_WEIGHTS = 1 << 21


class Step(NamedTuple):
    """The progress of an evaluation: what is measured next, and how much of this part of the evaluation is done.

    The errors come first: ``done`` and ``total`` count each sampled weight once per type. Then comes the text, if there
    is one: they count each chunk once per type and once for the model as it is, and ``tensor`` may name a chunk.
    """

    tensor: str
    type: str
    done: int
    total: int


def built_in_types(importance: bool = False) -> list[str]:
    """Name the built-in types that new types are compared with.

    They take 1 to 9 bits per weight, and are not types that ggml only computes with. ``importance`` says whether to
    include those that cannot be encoded without importance.
    """
    return [
        t.name
        for t in registry.all_types()
        if registry.is_built_in(t)
        and 1 < t.bits_per_weight < 9
        and (importance or not t.requires_importance)
        and t.codec.can_encode
        and t.name not in INTEGER_TYPES
    ]


@names_nearest
def evaluate(
    path: str | bytes | PathLike[str],
    type_names: "Iterable[str | int | QuantType | FileType] | int | QuantType | FileType",
    imatrix: ImatrixLike | None = None,
    *,
    sample: int = _SAMPLE_WEIGHTS,
    seed: int = 0,
    text: "Text | None" = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    progress: Callable[[Step], object] | None = None,
) -> Evaluation:
    """Encode and decode a random sample of the rows of a model in each type, and measure the error and the speed.

    - ``path``: a model that `quantreg.open` can read, of types that quantreg can decode, such as an F16 model.
    - ``type_names``: names or ids of types, or QuantTypes; names of file types, or FileTypes; or just one of these. A
      name that is both, such as Q4_0, means the type. A file type gives each tensor the type that `quantize_file` gives
      it.
    - ``imatrix``: an importance matrix, its path, or a mapping of tensor names to column statistics.
    - ``sample``: about how many weights to take. Every matrix contributes in proportion to its size, at least one row.
    - ``seed``: selects the rows. The same seed gives the same rows for every type.
    - ``text``: also measure how far the predictions of this text move when the weights of the whole model get each
      type: the KL divergence, in ``Evaluation.text``. It is a string, token ids, or the path of a file as a
      `pathlib.Path`. The model must be one that `quantreg.load` runs. Each type is encoded in memory, as
      ``quantize_file(..., pure=True, on_missing_importance="fallback")`` would do it.
    - ``n_ctx``, ``chunks``: the length of the chunks that the text is cut into, and how many of them are used at most.
    - ``threads``: how many threads run the model, by default as many as processors. Speeds are those of one thread.
    - ``progress``: called with a `Step` before each tensor is measured in each type, and as the text is read.

    A type that cannot be measured is listed in ``Evaluation.failed``, and the others are measured. If none can be, the
    error of the first is raised: CodecError for a type that cannot encode, or that needs importance if there is no
    imatrix; PlanError for a file type that does not fit the model. Raises UnknownTypeError; PlanError if the model has
    no matrices; and whatever `quantreg.open`, `ImportanceMatrix.read` and, with a text, `quantreg.perplexity` raise.
    """
    if isinstance(type_names, (str, int, QuantType, FileType)):
        type_names = [type_names]
    wanted = list({(type(found), found.name): found for found in map(type_or_file_type, type_names)}.values())
    if imatrix is not None:
        imatrix = ImportanceMatrix.of(imatrix)
    with ExitStack() as stack:
        model = stack.enter_context(files.open(path))
        targets, failed = _prepared(wanted, model, imatrix)
        chosen = list(dict.fromkeys(qtype for target in targets for qtype in target.types()))
        conditions = Conditions.here(model.metadata, sample, seed, _versions(chosen))
        sampled = _sampled(model, sample, np.random.default_rng(seed))
        if not sampled:
            raise PlanError(
                f"{os.fsdecode(path)} has no matrices to evaluate: give a model with two-dimensional tensors"
            )
        run = _Run(model, imatrix, targets, sampled)
        reading = None
        if text is not None:  # first, because it may be wrong, and the errors take long
            from quantreg.evaluation.reading import Reading  # inference takes more than 10 ms to load

            reading = stack.enter_context(Reading(model, text, n_ctx=n_ctx, chunks=chunks, threads=threads))
            reading.begin(len(targets), _report(progress))
        run.measure(progress)
        if reading is not None:
            failed += _read(reading, [target for target in targets if target in run.sums], run.matrices, progress)
    for target in targets:
        if target not in run.sums:
            reasons = [skip.reason for skip in run.skipped if skip.type == target.name]
            failed.append(Failed(target.name, f"no tensor could be encoded: {reasons[0]}"))
    totals = tuple(finished(target, None, run.sums[target]) for target in targets if target in run.sums)
    source = None if imatrix is None else imatrix.path
    return Evaluation(
        os.fsdecode(path),
        source and str(source),
        totals,
        tuple(run.measures),
        tuple(run.skipped),
        tuple(failed),
        conditions,
        None if reading is None else reading.result(),
    )


def _report(progress: Callable[[Step], object] | None) -> "Report | None":
    return None if progress is None else lambda what, name, done, total: progress(Step(what, name, done, total))


def _read(
    reading: "Reading",
    targets: Iterable[Target],
    matrices: Callable[[str], Matrices],
    progress: Callable[[Step], object] | None,
) -> list[Failed]:
    """Measure the targets on a text. Return those that failed."""
    failed = []
    for target in targets:
        try:
            reading.measure(target, matrices, _report(progress))
        except MemoryError:
            raise
        except Exception as error:  # a plugin may raise anything, and the other types do not depend on it
            failed.append(Failed(target.name, f"no KL divergence: {told(error)}"))
    return failed


def _prepared(
    wanted: "Iterable[QuantType | FileType]", model: files.File, imatrix: ImportanceMatrix | None
) -> tuple[list[Target], list[Failed]]:
    """Return the targets that can be measured, and why the others cannot. Raises the first error if none can.

    Codecs are loaded here, so that the time for the first tensor does not include the loading.
    """
    targets: list[Target] = []
    errors: list[tuple[str, Exception]] = []
    warm: set[QuantType] = set()
    for found in wanted:
        try:
            made = make_target(found, model, imatrix)
            for qtype in set(made.types()) - warm:
                warm_up(qtype)
                warm.add(qtype)
        except MemoryError:
            raise
        except Exception as error:  # a plugin may raise anything, and the other types do not depend on it
            errors.append((found.name, error))
        else:
            targets.append(made)
    if errors and not targets:
        raise errors[0][1]
    return targets, [Failed(name, told(error)) for name, error in errors]


def _versions(chosen: Iterable[QuantType]) -> dict[str, str]:
    """The versions of quantreg and of the other distributions that provide these types."""
    found = {"quantreg": quantreg.__version__}
    for qtype in chosen:
        if registry.find(qtype.name) is qtype:
            plugin = registry.owner(qtype)
            if not registry.is_built_in(qtype):
                found[plugin.distribution] = plugin.version
    return found


class _Run:
    """The figures of a run as they come in. ``sampled`` maps each tensor to the numbers of its sampled rows."""

    def __init__(
        self,
        model: files.File,
        imatrix: ImportanceMatrix | None,
        targets: list[Target],
        sampled: "dict[str, NDArray[np.int64]]",
    ) -> None:
        self.model = model
        self.imatrix = imatrix
        self.targets = targets
        self.sampled = sampled
        self.metadata = without_tokenizer(model.metadata)
        self.sums: dict[Target, Sums] = {}
        self.measures: list[Measure] = []
        self.skipped: list[Skipped] = []
        self._of_model: dict[tuple[Target, QuantType], tuple[Fitted, int]] = {}

    def measure(self, progress: Callable[[Step], object] | None) -> None:
        """Measure every target on the sampled rows of every tensor."""
        size = {name: len(numbers) * self.model[name].shape[-1] for name, numbers in self.sampled.items()}
        done, total = 0, sum(size.values()) * len(self.targets)
        for name, numbers in self.sampled.items():
            matrices = self.matrices(name)
            x = matrices.rows(numbers)
            known: dict[tuple[QuantType, bool, object], Sums | str] = {}  # several file types may agree on a tensor
            for target in self.targets:
                if progress:
                    progress(Step(name, target.name, done, total))
                done += size[name]
                qtype = target.type_of(name)
                if qtype is None:
                    nbytes = len(numbers) * matrices.tensor.data.shape[-1]
                    sums = summed(x, x, matrices.weights_of_errors(numbers), nbytes)
                    self._add(target, name, matrices.tensor.type_name, sums)
                    continue
                importance = target.uses_importance(name) and matrices.importance is not None
                fits = target.keeps_parameters(matrices.context, self.model.keys())
                of_model = fits and qtype.parameters is not None and qtype.parameters.scope == "model"
                key = (qtype, importance, target if of_model else fits)
                if key not in known:
                    known[key] = self._one(target, qtype, matrices, x, importance, fits)
                found = known[key]
                if isinstance(found, str):
                    self.skipped.append(Skipped(target.name, name, found))
                else:
                    self._add(target, name, qtype.name, found)

    def _one(
        self,
        target: Target,
        qtype: QuantType,
        matrices: Matrices,
        x: "NDArray[np.float32]",
        importance: bool,
        fits: bool,
    ) -> "Sums | str":
        """Measure a type on a tensor. Return the sums, or the reason why the type cannot encode it."""
        numbers, cols = self.sampled[matrices.tensor.name], x.shape[1]
        if cols % qtype.block_size:
            return f"a row has {cols} weights, which is not a multiple of the block size {qtype.block_size}"
        if qtype.requires_importance and not importance:
            return "the imatrix has no entry for this tensor"
        try:
            parameters, sharing = self._parameters(target, qtype, matrices, importance) if fits else (None, 1)
            done = round_trip(qtype, matrices, numbers, x, importance, parameters)
        except MemoryError:
            raise
        except Exception as error:  # a plugin may raise anything, and the other types do not depend on it
            return told(error)
        # The whole tensor or model shares the parameters, so the sampled rows count for a part of their size.
        nbytes = done.nbytes + x.size / sharing * parameter_bytes(parameters)
        return summed(x, done.decoded, matrices.weights_of_errors(numbers), nbytes, done.encoding, done.decoding)

    def _parameters(
        self, target: Target, qtype: QuantType, matrices: Matrices, importance: bool
    ) -> "tuple[Fitted, int]":
        """Fit the parameters of a type to a tensor, or once to all tensors that get the type.

        Returns them, and how many weights share them.
        """
        assert qtype.parameters is not None
        if qtype.parameters.scope == "tensor":
            return matrices.fit(qtype, importance), math.prod(matrices.tensor.shape)
        if (target, qtype) not in self._of_model:
            names = [
                name
                for name in self.sampled
                if target.type_of(name) is qtype and self.model[name].shape[-1] % qtype.block_size == 0
            ]
            tensors = ((self.matrices(name), target.uses_importance(name)) for name in names)
            fitted = fit_model(qtype, tensors, TensorContext(None, (), self.metadata))
            sharing = sum(math.prod(self.model[name].shape) for name in names)
            self._of_model[target, qtype] = fitted, sharing
        return self._of_model[target, qtype]

    def matrices(self, name: str) -> Matrices:
        """A tensor of the model with its importance."""
        tensor = self.model[name]
        context = TensorContext(name, tensor.shape, self.metadata)
        importance = None
        if self.imatrix is not None and name in self.imatrix.entries:
            count, cols = context.n_experts, tensor.shape[-1]
            # Planning ignores an entry of the wrong length for embeddings, too.
            if name not in EMBEDDINGS or self.imatrix.n_values(name) == count * cols:
                importance = self.imatrix.row(name, cols, count).reshape(count, cols)
        return Matrices(tensor, context, importance)

    def _add(self, target: Target, tensor: str, encoded_as: str, sums: "Sums") -> None:
        self.measures.append(finished(target, tensor, sums, encoded_as))
        self.sums[target] = added(self.sums[target], sums) if target in self.sums else sums


def _sampled(model: files.File, sample: int, rng: np.random.Generator) -> "dict[str, NDArray[np.int64]]":
    """Map the name of every matrix of a known type to the sorted numbers of its sampled rows."""
    shapes = {name: tensor.shape for name, tensor in model.items() if tensor.type_id in types}
    shapes = {name: shape for name, shape in shapes.items() if len(shape) > 1 and 0 not in shape}
    weights = sum(math.prod(shape) for shape in shapes.values())
    found = {}
    for name, shape in shapes.items():
        count = math.prod(shape[:-1])
        wanted = min(count, max(1, round(sample * (count / weights))))
        found[name] = np.sort(rng.choice(count, wanted, replace=False))
    return found
