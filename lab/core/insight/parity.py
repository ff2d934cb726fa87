"""Whether an export answers as the run's own adapter does: what is compared, and what must hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NEAR = 0.01  # of a logit: what other kernels and another order of sums may change
ROUNDED = 0.9  # parity that rounded weights must keep: greedy answers fork where two words tie
HALF = 0.5  # of what the adapter changes: rounded weights must stay nearer to it than this


@dataclass(frozen=True)
class Compared:
    """Answers to the same questions: of the lab, of the export. Scores are weighted sums, None
    where an answer could not be scored. The logits' differences are along the lab's own answers:
    `far` and `effect` the largest of the export, and of the adapter itself; `near` and `moved` the
    means of the same."""

    own_scores: Sequence[float | None]
    scores: Sequence[float | None]
    own_words: Sequence[str]
    words: Sequence[str]
    far: float
    effect: float
    near: float
    moved: float
    same_prompts: bool


def parity(found: Compared, exact: bool) -> dict[str, Any]:
    """{"n", "parity", "same", "max_logit_difference", "effect", "passed", "why"}.

    `parity` is the share of questions on which both earn the same score (or, where it cannot be
    scored, say the same), `same` that of the same words. `exact`: neither the weights nor what is
    computed with them was rounded to 16 bit.
    """
    n = len(found.words)
    same = [a == b for a, b in zip(found.own_words, found.words, strict=True)]
    alike = [words if None in (a, b) else math.isclose(a, b, abs_tol=1e-9) for a, b, words in
             zip(found.own_scores, found.scores, same, strict=True)]
    share = sum(alike) / n
    why = _against(found, exact, share)
    return {"n": n, "parity": share, "same": sum(same) / n, "max_logit_difference": found.far,
            "effect": found.effect, "passed": not why, "why": why}


def _against(found: Compared, exact: bool, share: float) -> str:
    if not found.same_prompts:
        return ("It writes the prompt in another way than the lab: its tokenizer or chat template "
                "differs.")
    if not math.isfinite(found.far):
        return "It answers with numbers that are not finite."
    if exact and found.far > NEAR:
        return f"A logit differs by {found.far:.2g}, and {NEAR:g} is what arithmetic may change."
    if not exact and found.near > HALF * found.moved:
        return ("What rounding changed is not small beside what the adapter changes: little of "
                "what was learnt is left in it. Serve the adapter beside its base instead.")
    if share < (1.0 if exact else ROUNDED):
        return f"It earns another score on {1 - share:.0%} of the questions."
    return ""
