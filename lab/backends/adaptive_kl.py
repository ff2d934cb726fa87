"""Holds the distance from the base model near a target: changes the weight of KL as it trains."""

from statistics import fmean

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

GAIN = 0.1  # K_beta of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2)
LARGEST_ERROR = 0.2  # a step changes beta by 2 % at most
LOWEST, HIGHEST = 1e-6, 10.0  # beta never becomes 0: TRL would then leave KL out


def next_beta(beta: float, kl: float, target: float) -> float:
    """beta after a step whose answers were `kl` nats a token from the base model."""
    error = max(-LARGEST_ERROR, min(LARGEST_ERROR, kl / target - 1))
    return max(LOWEST, min(HIGHEST, beta * (1 + GAIN * error)))


class AdaptiveKl(TrainerCallback, ExportableState):
    """Sets the trainer's beta after each step, from the step's mean KL over all its passes.

    A checkpoint holds it (in trainer_state.json), so that a resumed run goes on with it. Logs
    `kl/beta` and `kl/target` beside TRL's `kl`.
    """

    def __init__(self, target: float) -> None:
        self.target = target
        self._read = 0

    def bind(self, trainer) -> None:
        self.trainer = trainer
        trainer.add_callback(self)

    def state(self) -> dict:
        return {"args": {"target": self.target}, "attributes": {"beta": self.trainer.beta}}

    def on_train_begin(self, args, state, control, **kwargs):
        kept = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and kept:
            self.trainer.beta = float(kept["attributes"]["beta"])

    def on_step_end(self, args, state, control, **kwargs):
        told = self.trainer._metrics["train"]["kl"]
        new, self._read = told[self._read:], len(told)
        if new:
            self.trainer.beta = next_beta(self.trainer.beta, fmean(map(float, new)), self.target)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._read = 0  # TRL has emptied its list
        if logs and "loss" in logs:
            logs |= {"kl/beta": self.trainer.beta, "kl/target": self.target}
