"""Stops a training at the first number that is none: loss, gradient or weight of the adapter."""

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import TrainerCallback

from lab.backends.reporter import agreed
from lab.core.insight.doctor import NON_FINITE
from lab.core.problems import WorkFailed
from lab.core.weights import is_sound


class NonFinite(WorkFailed):
    """A number is NaN or infinite at `step`; the weights may be spoilt."""

    def __init__(self, step: int, what: str, why: str, next: str) -> None:
        super().__init__(what, why, next, kind=NON_FINITE)
        self.step = step


class Soundness(TrainerCallback):
    """Looks at each step's losses and gradients before they reach the weights, and at the weights
    after it, before anything is saved. Raises NonFinite in every process alike.

    Where a GradScaler is at work (fp16) gradients may overflow: it leaves such steps out itself.
    """

    def __init__(self, folder: Path, learning_rate: float) -> None:
        self.folder, self.learning_rate = folder, learning_rate
        self._losses: list[torch.Tensor] = []
        self._trained: list[torch.nn.Parameter] = []

    def bind(self, trainer) -> None:
        """Watch the loss that each pass of this trainer returns."""
        self.trainer = trainer
        train = trainer.training_step

        def watched(*args, **kwargs):
            loss = train(*args, **kwargs)
            self._losses.append(loss.detach())
            return loss

        trainer.training_step = watched
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        begun = state.global_step
        # Once: to look through all layers of a model takes longer than to look at its adapter.
        self._trained = [p for p in self.trainer.model.parameters() if p.requires_grad]
        self._stop_if(begun, {"A weight of the adapter": self._weights()},
                      f"The checkpoint of step {begun} is damaged." if begun
                      else "The adapter is damaged before the first step.")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        losses, self._losses = self._losses, []
        found = {"The loss": losses}
        if self.trainer.accelerator.scaler is None:
            found["The gradient"] = [p.grad for p in self._trained if p.grad is not None]
        self._stop_if(state.global_step + 1, found)

    def on_step_end(self, args, state, control, **kwargs):
        self._stop_if(state.global_step, {"A weight of the adapter": self._weights()})

    def _weights(self) -> list[torch.Tensor]:
        # A base that is cut in parts (DeepSpeed, FSDP) has only this process's part at hand.
        return [getattr(p, "ds_tensor", p).detach() for p in self._trained]

    def _stop_if(self, step: int, watched: dict[str, list[torch.Tensor]], what: str = "") -> None:
        bad = next((name for name, tensors in watched.items() if not all_finite(tensors)), "")
        if agreed(bool(bad)):
            what = what or f"The numbers became damaged at step {step}."
            which = bad or "A number of another process"
            raise NonFinite(step, what, f"{which} is not a finite number any more (NaN or "
                            "infinite), and nothing that follows from it would be one. Nothing "
                            "was saved over what is sound.", self._next())

    def _next(self) -> str:
        saved = sorted((int(path.name.removeprefix("step-"))
                        for path in (self.folder / "checkpoints").glob("step-*")
                        if is_sound(path)), reverse=True)
        lower = f"a new run with a lower learning rate than {self.learning_rate:g}"
        if not saved:
            return f"No checkpoint was saved yet: start {lower}."
        return (f"The last sound checkpoint is that of step {saved[0]}: take it, or resume from "
                f"it. If it comes again, start {lower}.")


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether each number of these is finite; one look at the device."""
    own = [getattr(t, "to_local", lambda t=t: t)() for t in tensors]
    if not own:
        return True
    # The norm of finite numbers may overflow: only then is each of them looked at.
    return bool(torch.nn.utils.get_total_norm(own).isfinite()) or all(
        bool(t.isfinite().all()) for t in own)
