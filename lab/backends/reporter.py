"""Says what the trainer does: points, samples and checkpoints; asks whether to stop or to wait."""

import shutil
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from lab.backends.evaluating import Evaluating
from lab.backends.gpu import Gauge
from lab.backends.scoreboard import Scoreboard
from lab.core import events
from lab.core.doing import Doing
from lab.core.settings import Settings

LOOK_EVERY = 0.2  # seconds between two looks of a paused run at whether it is to go on
GO_ON, WAIT, STOP = range(3)  # of several wishes the highest holds

class Reporter(TrainerCallback):
    """Turns what transformers' Trainer calls back into events. One in each process; see `say`.

    `say` takes events, and does nothing in other processes than the first. `asks` answers what
    a person asks while the run trains, `evaluates` the adapter on held-out questions; both are
    called at the end of each step, and what they take is no part of it.

    A pause is made where a checkpoint is: the step is said and saved before the wait, so that a
    machine that goes down in it costs nothing.
    """

    def __init__(self, settings: Settings, folder: Path, say, score: Scoreboard, gauge: Gauge,
                 wants_stop, wants_pause, asks, evaluates: Evaluating, doing: Doing) -> None:
        self.settings, self.folder, self.say = settings, folder, say
        self.asks, self.evaluates, self.doing = asks, evaluates, doing
        self.score, self.gauge = score, gauge
        self.wants_stop, self.wants_pause = wants_stop, wants_pause
        self.held = 0.0  # seconds that it was paused
        self._since = self._left = time.perf_counter()  # the newest point; this object's last word
        self._logged = 0
        self._owes_save = self._owes_stop = self._owes_pause = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.doing.begin()
        if state.global_step == 0:
            self.evaluates(0)
        self._since, self._logged = time.perf_counter(), state.global_step
        self.gauge.begin()

    def on_step_begin(self, args, state, control, **kwargs):
        self.doing.begin()
        self.doing("learning")  # until answers are drawn: a rollout may serve several steps

    def on_step_end(self, args, state, control, **kwargs):
        begun = time.perf_counter()
        outcome = self.evaluates(state.global_step)
        self.asks(state.global_step)
        self._owes_stop |= agreed(outcome.stop or self.wants_stop())
        self._owes_pause |= agreed(self.wants_pause())
        self._owes_save |= (self._owes_stop or self._owes_pause or agreed(outcome.keep)
                            or control.should_save)
        # Answers that are used again are not saved: a run that is resumed between two uses would
        # draw new ones, and from then on not be the run that it was.
        used_up = state.global_step % self.settings.train.num_iterations == 0
        control.should_save = self._owes_save and (
            used_up or state.global_step >= state.max_steps)
        if control.should_save:
            self._owes_save = False
            if self._owes_stop:
                control.should_training_stop = control.should_log = True
        self._left = time.perf_counter()
        self._since += self._left - begun

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return  # the summary at the end is no point of a curve
        steps = max(1, state.global_step - self._logged)
        now = time.perf_counter()
        whole = (now - self._since) / steps
        self._since, self._logged = now, state.global_step
        told = {name: seconds / steps for name, seconds in self.score.seconds.items()}
        spent = sum(told.get(name, 0.0)
                    for name in ("generation", "waiting", "reward", "checkpoint"))
        self.score.seconds.clear()
        self.say(events.Step(state.global_step, {
            **{name: value for name, value in logs.items()
               if isinstance(value, int | float) or value is None},
            **self.score.take(), "seconds/step": whole, "seconds/generation": 0.0,
            "seconds/reward": 0.0, **{f"seconds/{name}": value for name, value in told.items()},
            "seconds/update": max(0.0, whole - spent), **self.gauge.take()}))
        self.say(events.Samples(state.global_step, self.score.groups))
        self._left = time.perf_counter()

    def on_save(self, args, state, control, **kwargs):
        together()  # every process has written its part
        if state.is_world_process_zero:
            self.keep(state.global_step)
        # The step's point is said before: this goes into the next one.
        self.score.seconds["checkpoint"] += time.perf_counter() - self._left
        owes, self._owes_pause = self._owes_pause and state.global_step < state.max_steps, False
        if owes and not self._owes_stop and self.pause(state.global_step):
            self._owes_stop = control.should_training_stop = control.should_log = True

    def pause(self, step: int) -> bool:
        """Wait as long as it is asked for; whether the run is to stop instead of going on.

        Several processes look together, again and again: one that went ahead would wait for the
        others in the middle of its step, and give up some minutes later.
        """
        begun, said = time.perf_counter(), False
        while (wish := most(STOP if self.wants_stop() else
                            WAIT if self.wants_pause() else GO_ON)) == WAIT:
            if not said:
                self.doing.end()
                self.say(events.Paused(step))
                said = True
            self.asks(step)
            time.sleep(LOOK_EVERY)
        if said:
            self.say(events.WentOn(step))
        held = time.perf_counter() - begun
        self.held += held
        self._since += held
        self.evaluates.since += held
        return wish == STOP

    def keep(self, step: int) -> None:
        """Rename transformers' folder to ours once it is whole, and delete the oldest ones but the
        best on held-out questions."""
        checkpoints = self.folder / "checkpoints"
        target = checkpoints / f"step-{step}"
        shutil.rmtree(target, ignore_errors=True)
        (checkpoints / f"checkpoint-{step}").rename(target)
        there = sorted(int(p.name.removeprefix("step-")) for p in checkpoints.glob("step-*"))
        kept = {*there[-self.settings.train.save_total_limit:], self.evaluates.best(there)}
        for old in (s for s in there if s not in kept):
            shutil.rmtree(checkpoints / f"step-{old}", ignore_errors=True)
        self.say(events.Checkpoint(step))


def agreed(mine: bool) -> bool:
    """Whether any process says yes: all must leave the loop at the same step."""
    return bool(most(int(mine)))


def most(mine: int) -> int:
    """The largest number that any process has."""
    if not torch.distributed.is_initialized():
        return mine
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    number = torch.tensor(mine, device=device)
    torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
    return int(number)


def together() -> None:
    """Wait until every process has come here, and what it has started on its GPU is done.

    NCCL's work goes on behind the code that has asked for it. A process that ends before it is
    done leaves the others waiting for their part of it, for ever.
    """
    if torch.distributed.is_initialized():
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        torch.distributed.barrier()
