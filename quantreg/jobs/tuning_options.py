"""What a user may ask of a calibration text and of the size of the output."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from quantreg.errors import PlanError
from quantreg.recipes.options import PlanKeywords, PlanOptions

if TYPE_CHECKING:
    from quantreg.devices import DeviceLike
    from quantreg.quality.chunks import TextOrIds
    from quantreg.tuning.calibration import Calibration

    CalibrationLike: TypeAlias = Calibration | TextOrIds | os.PathLike[str] | Sequence[TextOrIds | os.PathLike[str]]

__all__ = ["Keywords", "TuningKeywords", "TuningOptions", "parted"]


_OF_TEXT: dict[str, Any] = {
    "n_ctx": 512,
    "chunks": None,
    "device": None,
    "across_layers": True,
}  # what is about it, with the defaults


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """Options of `quantreg.quantize_file` and `quantreg.plan`; they are described there.

    ``datasets`` are the names of the texts, for the metadata of the output. Raises PlanError for values that have the
    wrong form.
    """

    calibration: "CalibrationLike | None" = None
    n_ctx: int = 512
    chunks: int | None = None
    target_size: int | str | None = None
    target_bpw: float | None = None
    types: str | Sequence[str] = ()
    tuning_cache: str | bytes | os.PathLike[str] | None = None
    datasets: Sequence[str] = ()
    device: "DeviceLike | None" = None
    across_layers: bool = True

    def __post_init__(self) -> None:
        if self.target_size is not None and self.target_bpw is not None:
            raise PlanError("target_size and target_bpw exclude each other: give only one of them")
        bpw = self.target_bpw
        if bpw is not None and (isinstance(bpw, bool) or not isinstance(bpw, (int, float)) or not 0 < bpw <= 64):
            raise PlanError(f"target_bpw is {bpw!r}: expected bits per weight, such as 3.5")
        names = self.types.replace(",", " ").split() if isinstance(self.types, str) else tuple(self.types)
        object.__setattr__(self, "types", tuple(names))
        if not self.has_target:
            given = [name for name in ("types", "tuning_cache") if getattr(self, name)]
            if given:
                raise PlanError(f"{given[0]} needs a target: give target_size or target_bpw, too")
        if self.calibration is None:
            given = [name for name, usual in _OF_TEXT.items() if getattr(self, name) != usual]
            if given:
                raise PlanError(f"{given[0]} is about a calibration text: give one (calibration=, --calibration)")

    def without_text(self) -> "TuningOptions":
        """These options without the text, and what is about it."""
        return replace(self, calibration=None, datasets=(), **_OF_TEXT)

    @property
    def has_target(self) -> bool:
        """Whether the size of the output decides the types."""
        return self.target_size is not None or self.target_bpw is not None

    @property
    def used(self) -> bool:
        """Whether any of this was asked for."""
        return self.calibration is not None or self.has_target

    @property
    def texts(self) -> list[Any]:
        """The texts, each as text, token ids or the path of a file."""
        given: Any = self.calibration
        if isinstance(given, (str, os.PathLike)) or not isinstance(given, Sequence):
            return [given]
        several = bool(given) and not isinstance(given[0], Integral)
        return list(given) if several else [given]


class TuningKeywords(TypedDict, total=False):
    """The fields of `TuningOptions` as keyword arguments, for type checkers."""

    calibration: "CalibrationLike | None"
    n_ctx: int
    chunks: int | None
    target_size: int | str | None
    target_bpw: float | None
    types: str | Sequence[str]
    tuning_cache: str | bytes | os.PathLike[str] | None
    datasets: Sequence[str]
    device: "DeviceLike | None"
    across_layers: bool


class Keywords(PlanKeywords, TuningKeywords, total=False):
    """The options that planning and quantizing share."""


def parted(given: Keywords) -> tuple[PlanOptions, TuningOptions]:
    """The options of both kinds, checked. Raises PlanError."""
    own = {field.name for field in fields(TuningOptions)}
    tuning: dict[str, Any] = {name: value for name, value in given.items() if name in own}
    plan: dict[str, Any] = {name: value for name, value in given.items() if name not in own}
    return PlanOptions(**plan), TuningOptions(**tuning)
