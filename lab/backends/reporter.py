"""Says what the trainer does: points, samples and checkpoints; and asks whether to stop."""

import shutil
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from lab.backends.gpu import Gauge
from lab.backends.scoreboard import Scoreboard
from lab.core import events
from lab.core.settings import Settings


class Reporter(TrainerCallback):
    """Turns what transformers' Trainer calls back into events. One in each process; see `say`.

    `say` takes events, and does nothing in other processes than the first. `asks` answers what
    a person asks while the run trains, and is called at the end of each step.
    """

    def __init__(self, settings: Settings, folder: Path, say, score: Scoreboard, gauge: Gauge,
                 wants_stop, asks=lambda step: None) -> None:
        self.settings, self.folder, self.say, self.asks = settings, folder, say, asks
        self.score, self.gauge, self.wants_stop = score, gauge, wants_stop
        self._since = time.perf_counter()
        self._logged = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._since, self._logged = time.perf_counter(), state.global_step
        self.gauge.begin()

    def on_step_end(self, args, state, control, **kwargs):
        if agreed(self.wants_stop()):
            control.should_training_stop = control.should_save = control.should_log = True
        self.asks(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return  # the summary at the end is no point of a curve
        steps = max(1, state.global_step - self._logged)
        now = time.perf_counter()
        whole = (now - self._since) / steps
        self._since, self._logged = now, state.global_step
        spent = {name: self.score.seconds[name] / steps for name in ("generation", "reward")}
        self.score.seconds.clear()
        self.say(events.Step(state.global_step, {
            **{name: value for name, value in logs.items()
               if isinstance(value, int | float) or value is None},
            **self.score.take(), "seconds/step": whole, "seconds/generation": spent["generation"],
            "seconds/reward": spent["reward"],
            "seconds/update": max(0.0, whole - sum(spent.values())), **self.gauge.take()}))
        self.say(events.Samples(state.global_step, self.score.groups))

    def on_save(self, args, state, control, **kwargs):
        """Rename transformers' folder to ours once it is whole, and delete the oldest ones."""
        step = state.global_step
        together()  # every process has written its part
        if not state.is_world_process_zero:
            return
        checkpoints = self.folder / "checkpoints"
        target = checkpoints / f"step-{step}"
        shutil.rmtree(target, ignore_errors=True)
        (checkpoints / f"checkpoint-{step}").rename(target)
        there = sorted(int(p.name.removeprefix("step-")) for p in checkpoints.glob("step-*"))
        for old in there[:-self.settings.train.save_total_limit]:
            shutil.rmtree(checkpoints / f"step-{old}", ignore_errors=True)
        self.say(events.Checkpoint(step))


def agreed(mine: bool) -> bool:
    """Whether any process says yes: all must leave the loop at the same step."""
    if not torch.distributed.is_initialized():
        return mine
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(mine), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def together() -> None:
    """Wait until every process has come here, and what it has started on its GPU is done.

    NCCL's work goes on behind the code that has asked for it. A process that ends before it is
    done leaves the others waiting for their part of it, for ever.
    """
    if torch.distributed.is_initialized():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        torch.distributed.barrier()
