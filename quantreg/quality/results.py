"""What a measurement of quality returns and reports as it goes, and the statistics behind it."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.html import figures
from quantreg.quality.logprobs import Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["ChunkDone", "Divergence", "Perplexity", "Started", "Totals"]


@dataclass(frozen=True, slots=True, repr=False)
class Perplexity:
    """How well a model predicts a text. The definition is that of llama-perplexity.

    The text is cut into chunks, each evaluated alone. The predictions in the second half of a chunk count, so that
    each has at least half a chunk of context.

    - ``perplexity``: exp(nll). ``perplexity_error``: its standard error, ``perplexity * nll_error``.
    - ``nll``: the mean negative log-likelihood of the true token, in nats. ``nll_error``: its standard error, which is
      sqrt((mean(x^2) - mean(x)^2) / (tokens - 1)) over the predictions.
    - ``chunks``, ``n_ctx``: how many chunks were evaluated, and how many tokens each has.
    - ``tokens``: how many predictions count.
    - ``running``: the perplexity of all chunks up to this one, for each chunk.
    - ``seconds``: how long the evaluation took; ``tokens_per_second``: tokens of all chunks, divided by it.
    - ``warnings``: what may make the figures less useful than they seem.
    """

    perplexity: float
    perplexity_error: float
    nll: float
    nll_error: float
    chunks: int
    n_ctx: int
    tokens: int
    running: tuple[float, ...]
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data. Numbers that are not finite become None."""
        return _ready(asdict(self))

    def __repr__(self) -> str:
        return (
            f"<Perplexity {self.perplexity:.4f} +/- {self.perplexity_error:.4f}, {self.chunks} chunks of {self.n_ctx}>"
        )

    def _repr_html_(self) -> str:
        return _html(repr(self), self.to_dict())


@dataclass(frozen=True, slots=True, repr=False)
class Divergence:
    """How far the predictions of a model are from those of a base model. The definition is that of llama-perplexity.

    The KL divergence of one prediction is the sum over the vocabulary of p_base * (log p_base - log p), in nats,
    without the tokens whose log p_base is -16 or less. Dp is the change of the probability of the true token,
    p - p_base. Errors are standard errors. Quantiles interpolate linearly.

    - ``perplexity``, ``perplexity_error``, ``perplexity_base``, ``perplexity_base_error``: as in `Perplexity`.
    - ``correlation``: between the log-probabilities of the true token in both models, from -1 to 1.
    - ``log_ratio``: ln(perplexity / perplexity_base). Its error, and those of the next two, allow for the correlation.
    - ``ratio``, ``difference``: perplexity / perplexity_base, and perplexity - perplexity_base.
    - ``kl_mean``, ``kl_error``, ``kl_max``, ``kl_99_9`` (the 99.9 % quantile) down to ``kl_0_1``, ``kl_min``.
    - ``dp_mean``, ``dp_error``, ``dp_max`` down to ``dp_min``, likewise.
    - ``dp_rms``, ``dp_rms_error``: the root mean square of Dp.
    - ``same_top``, ``same_top_error``: the share of predictions, from 0 to 1, whose most probable token is that of the
      base.
    - ``chunks``, ``n_ctx``, ``tokens``, ``running``, ``seconds``, ``tokens_per_second``, ``warnings``: as in
      `Perplexity`.
    """

    perplexity: float
    perplexity_error: float
    perplexity_base: float
    perplexity_base_error: float
    correlation: float
    log_ratio: float
    log_ratio_error: float
    ratio: float
    ratio_error: float
    difference: float
    difference_error: float
    kl_mean: float
    kl_error: float
    kl_max: float
    kl_99_9: float
    kl_99: float
    kl_95: float
    kl_90: float
    kl_median: float
    kl_10: float
    kl_5: float
    kl_1: float
    kl_0_1: float
    kl_min: float
    dp_mean: float
    dp_error: float
    dp_max: float
    dp_99_9: float
    dp_99: float
    dp_95: float
    dp_90: float
    dp_75: float
    dp_median: float
    dp_25: float
    dp_10: float
    dp_5: float
    dp_1: float
    dp_0_1: float
    dp_min: float
    dp_rms: float
    dp_rms_error: float
    same_top: float
    same_top_error: float
    chunks: int
    n_ctx: int
    tokens: int
    running: tuple[float, ...]
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data. Numbers that are not finite become None. `from_dict` reads it."""
        return _ready(asdict(self))

    @classmethod
    def from_dict(cls, data: "Mapping[str, Any]") -> "Divergence":
        """Read what `to_dict` returned. None becomes NaN."""
        found: dict[str, Any] = {name: math.nan if value is None else value for name, value in data.items()}
        found |= {name: tuple(found[name]) for name in ("running", "warnings")}
        return cls(**found)

    def __repr__(self) -> str:
        return (
            f"<Divergence {self.kl_mean:.5f} +/- {self.kl_error:.5f} nats, perplexity {self.perplexity:.4f} against "
            f"{self.perplexity_base:.4f}, same top token {self.same_top:.2%}, {self.chunks} chunks of {self.n_ctx}>"
        )

    def _repr_html_(self) -> str:
        return _html(repr(self), self.to_dict())


@dataclass(frozen=True, slots=True)
class Started:
    """Everything was checked and the first chunk begins.

    ``chunks`` of ``n_ctx`` tokens will be evaluated. ``against`` says whether there is a base to compare with.
    ``done`` chunks were evaluated by a run that did not finish, and are not evaluated again.
    """

    chunks: int
    n_ctx: int
    against: bool = False
    warnings: tuple[str, ...] = ()
    done: int = 0


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """A chunk was evaluated. The figures are those of all chunks so far.

    ``chunk`` counts from 1. The perplexity is NaN if it is not measured. The figures from ``log_ratio`` on mean what
    they mean in `Divergence`, and are 0 if there is no base.
    """

    chunk: int
    chunks: int
    perplexity: float
    perplexity_error: float
    log_ratio: float = 0.0
    log_ratio_error: float = 0.0
    kl_mean: float = 0.0
    kl_error: float = 0.0
    dp_rms: float = 0.0
    dp_rms_error: float = 0.0
    same_top: float = 0.0
    same_top_error: float = 0.0


# name in Divergence -> the quantile
_QUANTILES = {
    "99_9": 0.999, "99": 0.99, "95": 0.95, "90": 0.9, "75": 0.75, "median": 0.5, "25": 0.25, "10": 0.1, "5": 0.05,
    "1": 0.01, "0_1": 0.001, "max": 1.0, "min": 0.0,
}  # fmt: skip


class Totals:
    """The figures of all predictions so far. ``against`` says whether they are compared with a base."""

    against: bool
    count: int

    def __init__(self, against: bool) -> None:
        self.against = against
        self.count = 0
        self._sums: dict[str, float] = {}
        self._kl: list[NDArray[np.float32]] = []
        self._dp: list[NDArray[np.float32]] = []

    def add(self, scores: Scores) -> None:
        """Add the predictions of a chunk."""
        self.count += len(scores.nll)
        nll = scores.nll
        self._add(nll=nll, nll2=nll * nll)
        if self.against:
            base, kl = scores.nll_base, scores.kl
            with np.errstate(all="ignore"):
                dp = np.exp(-nll) - np.exp(-base)
            dp2 = dp * dp
            self._add(
                base=base, base2=base * base, both=nll * base, kl=kl, kl2=kl * kl, dp=dp, dp2=dp2, dp4=dp2 * dp2,
                same=scores.same,
            )  # fmt: skip
            self._kl.append(kl.astype(np.float32))
            self._dp.append(dp.astype(np.float32))

    def saved(self) -> list[float]:
        """Return the figures of a perplexity, for `restore`."""
        return [float(self.count), self._sums.get("nll", 0.0), self._sums.get("nll2", 0.0)]

    def restore(self, figures: "Sequence[float]") -> None:
        """Go on from the figures that `saved` returned."""
        count, nll, nll2 = figures
        self.count, self._sums = int(count), {"nll": float(nll), "nll2": float(nll2)}

    def _add(self, **values: "NDArray[Any]") -> None:
        for name, each in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(each.sum(dtype=np.float64))

    def _mean(self, name: str, squares: str) -> tuple[float, float]:
        """Return a mean and its standard error."""
        mean = self._sums[name] / self.count
        variance = self._sums[squares] / self.count - mean * mean
        return mean, math.sqrt(variance / (self.count - 1)) if variance > 0 and self.count > 1 else 0.0

    def perplexity(self) -> dict[str, Any]:
        """Return the fields of `Perplexity` that are statistics."""
        mean, error = self._mean("nll", "nll2")
        value = _exp(mean)
        return {"perplexity": value, "perplexity_error": value * error, "nll": mean, "nll_error": error}

    def means(self) -> dict[str, Any]:
        """Return the fields of `Divergence` that are no quantiles."""
        sums, n = self._sums, self.count
        nll, nll_error = self._mean("nll", "nll2")
        base, base_error = self._mean("base", "base2")
        kl, kl_error = self._mean("kl", "kl2")
        dp, dp_error = self._mean("dp", "dp2")
        square, square_error = self._mean("dp2", "dp4")
        covariance = (sums["both"] / n - nll * base) / (n - 1) if n > 1 else 0.0
        ratio_error = _root(nll_error**2 + base_error**2 - 2 * covariance)
        mine, theirs = _exp(nll), _exp(base)
        errors = mine * nll_error, theirs * base_error
        same = sums["same"] / n
        rms = math.sqrt(square)
        return {
            "perplexity": mine,
            "perplexity_error": errors[0],
            "perplexity_base": theirs,
            "perplexity_base_error": errors[1],
            "correlation": covariance / (nll_error * base_error) if nll_error * base_error else math.nan,
            "log_ratio": nll - base,
            "log_ratio_error": ratio_error,
            "ratio": _exp(nll - base),
            "ratio_error": _exp(nll - base) * ratio_error,
            "difference": mine - theirs,
            "difference_error": _root(errors[0] ** 2 + errors[1] ** 2 - 2 * mine * theirs * covariance),
            "kl_mean": kl,
            "kl_error": kl_error,
            "dp_mean": dp,
            "dp_error": dp_error,
            "dp_rms": rms,
            "dp_rms_error": 0.5 / rms * square_error if rms else 0.0,
            "same_top": same,
            "same_top_error": _root(same * (1 - same) / (n - 1)) if n > 1 else 0.0,
        }

    def quantiles(self) -> dict[str, Any]:
        """Return the fields of `Divergence` that are quantiles."""
        found = {}
        for prefix, values in (("kl", np.concatenate(self._kl)), ("dp", np.concatenate(self._dp))):
            for name, value in zip(_QUANTILES, np.quantile(values, list(_QUANTILES.values())), strict=True):
                found[f"{prefix}_{name}"] = float(value)
        return {name: value for name, value in found.items() if name in Divergence.__slots__}


def chunk_done(totals: Totals, chunk: int, chunks: int) -> ChunkDone:
    """Return the event that reports a chunk, counted from 1."""
    figures = totals.means() if totals.against else totals.perplexity()
    known = ChunkDone.__slots__
    return ChunkDone(chunk, chunks, **{name: value for name, value in figures.items() if name in known})


def _exp(value: float) -> float:
    """exp that gives infinity where math.exp raises."""
    return math.exp(value) if value < 709 else math.inf


def _root(value: float) -> float:
    """The root of a variance, which rounding may have made negative."""
    return math.sqrt(value) if value > 0 else 0.0


def _html(text: str, fields: dict[str, Any]) -> str:
    return figures(text.strip("<>"), {name: value for name, value in fields.items() if not isinstance(value, list)})


def _ready(fields: "Mapping[str, Any]") -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else None if value != value or value in _INFINITE else value
        for name, value in fields.items()
    }


_INFINITE = (math.inf, -math.inf)
