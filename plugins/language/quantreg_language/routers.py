"""How the experts of a model are scored, if a key says so."""

from collections.abc import Callable

from quantreg import ModelError
from quantreg.inference.facts import Facts
from quantreg.inference.graph import Score

__all__ = ["score_by_key"]

SCORES: dict[int, Score] = {1: "softmax", 2: "sigmoid", 3: "softmax of chosen"}


def score_by_key(default: Score) -> Callable[[Facts], Score]:
    """The score that the key ``expert_gating_func`` names; a default if it is absent or 0."""

    def score(facts: Facts) -> Score:
        key = facts.whole("expert_gating_func", 0)
        if key and key not in SCORES:
            raise ModelError(
                f"the metadata key {facts.architecture}.expert_gating_func is {key}: quantreg computes the router "
                f"functions {', '.join(map(str, SCORES))}"
            )
        return SCORES.get(key, default)

    return score
