"""How hard an advantage pushes on the tokens of its answer, in each of TRL's losses.

A push is minus the gradient of the loss by a token's log-probability: above 0 the token becomes
likelier. It has three factors: the answer's advantage, what clipping lets through of it once the
policy has moved since it answered, and the token's weight in the mean over all tokens of the step.
With a KL weight, a pull towards the base model is added.

The ratio is the token's probability now over that when it was drawn: 1 in the first update of a
rollout. Formulas are those of TRL 1.14, `GRPOTrainer._compute_loss`, with ratios of tokens
(`importance_sampling_level="token"`); tests/test_losses.py takes the gradients from there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CLIPPED, CAPPED, SOFT = "clipped", "capped", "soft"
SAPO_UP, SAPO_DOWN = 1.0, 1.05  # TRL's sapo_temperature_pos and sapo_temperature_neg
CISPO_HIGH = 5.0  # what TRL advises for epsilon_high with "cispo", where it is the largest ratio


@dataclass(frozen=True)
class Paper:
    title: str
    arxiv: str


@dataclass(frozen=True)
class Loss:
    """One of TRL's `loss_type`s. `gate` is how it holds a ratio that has moved."""

    name: str
    gate: str
    formula: str  # of what is maximised
    weighs: str  # what its mean does, in a sentence
    paper: Paper


GRPO_PAPER = Paper("DeepSeekMath", "2402.03300")
MIN = "min(r·A, clip(r, 1−ε, 1+ε)·A)"
ALL = {one.name: one for one in (
    Loss("grpo", CLIPPED, f"mean over answers of (1/length) Σ {MIN}",
         "Each answer counts alike, so a token of a long one counts less: long wrong answers are "
         "hardly pushed down.", GRPO_PAPER),
    Loss("dr_grpo", CLIPPED, f"1/(answers · longest allowed) Σ {MIN}",
         "Each token counts alike, by a constant: no answer is favoured for its length.",
         Paper("Dr. GRPO", "2503.20783")),
    Loss("dapo", CLIPPED, f"1/(tokens of the step) Σ {MIN}",
         "Each token of the step counts alike; short answers do not push harder.",
         Paper("DAPO", "2503.14476")),
    Loss("bnpo", CLIPPED, f"1/(tokens of the batch) Σ {MIN}",
         "As dapo, but over one batch of a step: it varies with 'Answers at once'. Here the step "
         "is one batch.", Paper("TRL, after DAPO", "2503.14476")),
    Loss("cispo", CAPPED, "1/(tokens of the step) Σ stop(min(r, ε_max))·A·log π",
         "The ratio is capped and only weighs: no token ever loses its push.",
         Paper("MiniMax-M1", "2506.13585")),
    Loss("sapo", SOFT, "mean over answers of (1/length) Σ (4/τ)·σ(τ(r−1))·A",
         "A soft gate in place of the clip: the push fades as the policy moves. Its mean is that "
         "of grpo.", Paper("SAPO", "2511.20347")),
)}


def gate(loss: str, advantage: float, ratio: float, low: float, high: float,
         up: float = SAPO_UP, down: float = SAPO_DOWN) -> float:
    """What is left of an advantage's push at this ratio, as a factor: 1 at ratio 1.

    `low` and `high` are TRL's `epsilon` and `epsilon_high`; for "cispo" the latter is the largest
    ratio itself. `up` and `down` are the temperatures of "sapo" for advantages above 0 and others.
    """
    kind = ALL[loss].gate
    if kind == CAPPED:
        return min(ratio, high)
    if kind == SOFT:
        steep = up if advantage > 0 else down
        open_by = 1 / (1 + math.exp(-steep * (ratio - 1)))
        return 4 * open_by * (1 - open_by) * ratio
    over = ratio > 1 + high if advantage > 0 else ratio < 1 - low
    return 0.0 if over else ratio


def highest_ratio(loss: str, high: float) -> float:
    """`epsilon_high` as this loss can use it: as a cap on the ratio one below 1 would cut every
    push, also that of a policy that has not moved."""
    return high if ALL[loss].gate != CAPPED or high >= 1 else CISPO_HIGH


def weights(loss: str, tokens: Sequence[int], longest: int) -> list[float]:
    """The weight of a single token of each answer in the mean over the step.

    `tokens` are the lengths of all answers of the step, 0 for one that is left out of the loss;
    `longest` is `max_completion_length`. The step is taken as one batch.
    """
    if loss in ("grpo", "sapo"):
        return [1 / (max(1, size) * len(tokens)) for size in tokens]
    if loss == "dr_grpo":
        return [1 / (len(tokens) * longest)] * len(tokens)
    return [1 / max(1, sum(tokens))] * len(tokens)


def pull(beta: float, likelier: float, ratio: float = 1.0) -> float:
    """What the KL term adds to the push of a token that is `likelier` times as likely as under the
    base model, before the token's weight.

    The estimate is that of DeepSeekMath (equation 4), 1/x - 1 + log x with x = `likelier`. TRL
    multiplies it by the ratio (DeepSeek-V3.2, arXiv 2512.02556), and its gradient becomes just
    this.
    """
    return -beta * ratio * math.log(likelier)


def pushes(loss: str, advantages: Sequence[float], tokens: Sequence[int], longest: int,
           ratio: float = 1.0, held: Sequence[float] = (0.2, 0.2), beta: float = 0.0,
           likelier: float = 1.0) -> list[float]:
    """The push on one token of each answer of a step. `held` is what `gate` takes after the ratio.
    """
    pulled = pull(beta, likelier, ratio)
    return [weight * (advantage * gate(loss, advantage, ratio, *held) + pulled) if size else 0.0
            for advantage, size, weight in zip(advantages, tokens, weights(loss, tokens, longest),
                                               strict=True)]
