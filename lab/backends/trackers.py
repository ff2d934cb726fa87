"""Keeps a tracker that fails (no login, no network) from ending the run that it only watches."""

from transformers import TrainerCallback

from lab.core import events
from lab.core.problems import explain

HOME = "transformers.integrations"  # where the trackers' callbacks come from


class Guarded(TrainerCallback):
    """Passes everything on to a tracker until it fails, then says so once and goes on without."""

    def __init__(self, inner: TrainerCallback, name: str, say) -> None:
        self.inner, self.name, self.say = inner, name, say

    def pass_on(self, event: str, *args, **kwargs) -> None:
        if self.inner is None:
            return
        try:
            getattr(self.inner, event)(*args, **kwargs)
        except (Exception, SystemExit) as error:  # click's way out, where it wanted to ask
            self.inner = None
            self.say(events.Notice("warning", f"The run goes on without {self.name}. "
                                   f"{explain(error)}"))


def _passing(event: str):
    def method(self, *args, **kwargs):
        self.pass_on(event, *args, **kwargs)
    return method


for _event in [name for name in dir(TrainerCallback) if name.startswith("on_")]:
    setattr(Guarded, _event, _passing(_event))


def guard(trainer, name: str, say) -> None:
    """Guard the trainer's tracker; `name` is what 'Report to' says."""
    if name == "none":
        return
    callbacks = trainer.callback_handler.callbacks
    for place, callback in enumerate(callbacks):
        if type(callback).__module__.startswith(HOME):
            callbacks[place] = Guarded(callback, name, say)
