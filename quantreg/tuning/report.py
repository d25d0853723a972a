"""What tuning did to a model, as data. `quantreg.tuning.report_page` makes a web page of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

from quantreg.names import ROLES, layer_of, role_of
from quantreg.quality import Divergence
from quantreg.tuning.tune import Tuned

if TYPE_CHECKING:
    from quantreg.recipes import Plan
    from quantreg.tuning.allocation import Choice

__all__ = ["Predicted", "Search", "TensorReport", "TuningReport", "Variant", "predicted_curve"]

Kind = Literal["this", "tuned", "recipe"]


class Search(Protocol):
    """What a report takes from a search for types; `quantreg.tuning.search.Found` has it."""

    @property
    def choices(self) -> "Mapping[str, Sequence[Choice]]":
        """All that each tensor might have become."""

    @property
    def chosen(self) -> "Mapping[str, Choice]":
        """What it has become."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why, by tensor."""

    @property
    def way(self) -> str:
        """What the loss is: "calibration", "imatrix" or "weights"."""

    @property
    def how(self) -> str:
        """The same in words."""

    @property
    def loss(self) -> float:
        """The predicted loss of the whole."""

    @property
    def gap(self) -> str | None:
        """Why the file is clearly below its target, or None."""


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor.

    - ``name``, ``layer``, ``part``: the name, the number of its layer or None, and the rest, such as "attn_q".
    - ``type``, ``bits_per_weight``, ``weights``, ``nbytes``: what it has become.
    - ``share``: its share of the predicted loss, from 0 to 1; None if the types were not searched.
    - ``plain``, ``tuned``: the error of its outputs on held-out tokens, relative to them, with the ordinary bytes and
      as it is in the file; None if it had no feedback.
    - ``kept``, ``matrices``: how many of its matrices have feedback, and how many there are.
    - ``reason``: why it has its type. ``remark``: why it has the ordinary bytes, or None.
    """

    name: str
    layer: int | None
    part: str
    type: str
    bits_per_weight: float
    weights: int
    nbytes: int
    share: float | None
    plain: float | None
    tuned: float | None
    kept: int
    matrices: int
    reason: str
    remark: str | None


@dataclass(frozen=True, slots=True)
class Variant:
    """A file on the chart: its name, bytes, measured KL divergence, and what it is.

    ``kind``: "this" is the result, "tuned" another size of it, "recipe" a file type as llama-quantize writes it.
    """

    name: str
    nbytes: int
    kl: float
    kind: Kind = "recipe"


@dataclass(frozen=True, slots=True)
class Predicted:
    """A point of the predicted curve: the bytes of a file, and its predicted loss."""

    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class TuningReport:
    """A tuned model.

    - ``model``: its name. ``source``, ``output``: the names of the files, without folders.
    - ``file_type``: the file type that was asked for or that the search began with.
    - ``nbytes``, ``bits_per_weight``: of the result. ``target``: the bytes that were asked for, or None.
    - ``tensors``: a `TensorReport` for each tensor that is not kept as it was.
    - ``way``: what decided the types: "calibration", "imatrix" or "weights"; None if the file type did. ``how`` says it
      in words. ``loss``: the predicted loss; ``gap``: why the file is clearly below its target, or None.
    - ``quality``: a `quantreg.Divergence` of the result on text that decided nothing, or None if it was not measured.
    - ``variants``: files that were measured. ``predicted``: the predicted curve, the smallest file first.
    - ``conditions``: name -> text: the calibration text, versions, times and so on.
    """

    model: str
    source: str
    output: str
    file_type: str
    nbytes: int
    bits_per_weight: float
    target: int | None
    tensors: tuple[TensorReport, ...]
    way: str | None = None
    how: str | None = None
    loss: float | None = None
    gap: str | None = None
    quality: Divergence | None = None
    variants: tuple[Variant, ...] = ()
    predicted: tuple[Predicted, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: "Plan",
        tuned: Iterable[Tuned],
        found: "Search | None" = None,
        measured: Mapping[str, Any] | None = None,
    ) -> "TuningReport":
        """Put together what a plan, the feedback, the search and measurements say.

        ``found`` is None if the file type decided the types. ``measured`` may hold:

        - ``model``, ``source``, ``output``: names; folders are left out.
        - ``file_bytes``: the size of the output with its header. By default that of the tensor data.
        - ``target``: the bytes that were asked for.
        - ``divergence``: a `quantreg.Divergence` of the result on the part of the text that reports.
        - ``variants``: other files, each a `Variant` or a mapping with its fields.
        - ``conditions``: name -> text.
        """
        measured = dict(measured or {})
        nbytes = int(measured.get("file_bytes", plan.bytes))
        quality: Divergence | None = measured.get("divergence")
        variants = [v if isinstance(v, Variant) else Variant(**v) for v in measured.get("variants", ())]
        output = _file(measured.get("output", ""))
        if quality is not None and not any(v.kind == "this" for v in variants):
            variants.append(Variant(output or "this file", nbytes, quality.kl_mean, "this"))
        return cls(
            model=str(measured.get("model") or _file(measured.get("source", "")) or "a model"),
            source=_file(measured.get("source", "")),
            output=output,
            file_type=plan.file_type.name,
            nbytes=nbytes,
            bits_per_weight=plan.bits_per_weight,
            target=measured.get("target"),
            tensors=tuple(_tensors(plan, tuned, found)),
            way=None if found is None else found.way,
            how=None if found is None else found.how,
            loss=None if found is None else found.loss,
            gap=None if found is None else found.gap,
            quality=quality,
            variants=tuple(sorted(variants, key=lambda v: (v.nbytes, v.name))),
            predicted=() if found is None else predicted_curve(found.choices, found.chosen, nbytes),
            conditions={str(name): str(text) for name, text in dict(measured.get("conditions", {})).items()},
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of tensor names, those of a layer first, in the order of attention and feed-forward network."""
        order = {role: i for i, role in enumerate(ROLES)}
        found = {t.part: (t.layer is None, order[role_of(t.name)], i) for i, t in reversed([*enumerate(self.tensors)])}
        return tuple(sorted(found, key=found.__getitem__))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data. `from_dict` reads it."""
        quality = None if self.quality is None else self.quality.to_dict()
        return {**asdict(self), "quality": quality, "conditions": dict(self.conditions)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TuningReport":
        """Read what `to_dict` returned."""
        quality = data.get("quality")
        return cls(
            **{
                **data,
                "tensors": tuple(TensorReport(**tensor) for tensor in data["tensors"]),
                "quality": None if quality is None else Divergence.from_dict(quality),
                "variants": tuple(Variant(**variant) for variant in data.get("variants", ())),
                "predicted": tuple(Predicted(**point) for point in data.get("predicted", ())),
            }
        )


def _tensors(plan: "Plan", tuned: Iterable[Tuned], found: "Search | None") -> Iterable[TensorReport]:
    feedback = {one.name: one for one in tuned}
    losses = {} if found is None else {name: choice.loss for name, choice in found.chosen.items()}
    total = sum(losses.values())
    for tensor in plan.tensors:
        if not tensor.converted and tensor.source.name not in feedback:
            continue
        one = feedback.get(tensor.name) or feedback.get(tensor.source.name)
        loss = losses.get(tensor.name)
        yield TensorReport(
            name=tensor.name,
            layer=layer_of(tensor.name),
            part=re.sub(r"^blk\.\d+\.|\.weight$", "", tensor.name),
            type=tensor.to_type,
            bits_per_weight=8 * tensor.bytes / max(1, tensor.n_elements),
            weights=tensor.n_elements,
            nbytes=tensor.bytes,
            share=None if loss is None else loss / total if total else 0.0,
            plain=None if one is None else one.plain,
            tuned=None if one is None or one.tuned is None else one.tuned,
            kept=0 if one is None else one.kept,
            matrices=tensor.n_experts if one is None else one.matrices,
            reason=tensor.reason if found is None else found.reasons.get(tensor.name, tensor.reason),
            remark=None if one is None else one.reason,
        )


def predicted_curve(
    choices: Mapping[str, Sequence["Choice"]], chosen: Mapping[str, "Choice"], nbytes: int, most: int = 60
) -> tuple[Predicted, ...]:
    """The least predicted loss for each file size, as at most about ``most`` points of the lower convex hull.

    ``nbytes`` is the size of the file with the types that were ``chosen``. Between two points, one tensor after the
    other gets a better type, in the order of the loss that a byte saves.
    """
    if not choices:
        return ()
    size = nbytes - sum(choice.nbytes for choice in chosen.values())
    loss = 0.0
    steps: list[tuple[float, int, float]] = []  # loss saved per byte, bytes, loss saved
    for options in choices.values():
        hull = _hull(options)
        size += hull[0].nbytes
        loss += hull[0].loss
        for small, large in pairwise(hull):
            more, saved = large.nbytes - small.nbytes, small.loss - large.loss
            steps.append((saved / more, more, saved))
    points = [Predicted(size, loss)]
    for _, more, saved in sorted(steps, reverse=True):
        size += more
        loss -= saved
        points.append(Predicted(size, max(loss, 0.0)))
    step = max(1, len(points) // most)
    return (*points[:-1:step], points[-1])


def _hull(options: "Sequence[Choice]") -> "list[Choice]":
    """The choices on the lower convex hull of loss against bytes, the smallest first."""
    found: list[Choice] = []
    for choice in sorted(options, key=lambda c: (c.nbytes, c.loss)):
        if found and choice.loss >= found[-1].loss:
            continue
        while len(found) > 1 and _rate(found[-1], choice) >= _rate(found[-2], found[-1]):
            found.pop()
        found.append(choice)
    return found


def _rate(small: "Choice", large: "Choice") -> float:
    return (small.loss - large.loss) / (large.nbytes - small.nbytes)


def _file(path: Any) -> str:
    """The name of a file without its folder, on any system."""
    return re.split(r"[\\/]", str(path).rstrip("\\/"))[-1]
