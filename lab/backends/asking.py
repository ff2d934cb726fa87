"""Answers what a person asks while a run trains, between two steps, with and without adapter."""

import json
import time
from pathlib import Path

from lab.backends import wording
from lab.backends.engines.base import Engine
from lab.backends.generate import Drawing
from lab.core import events
from lab.core.problems import explain
from lab.core.prompts import messages
from lab.core.settings import Settings


class Asking:
    """Looks into the run's folder `asks` at the end of a step and says `answered` for each file.

    The trainer's own engine and weights answer, in its own thread, so that asking needs no
    memory of its own and shows the adapter as it is at this step.
    """

    def __init__(self, folder: Path, engine: Engine, settings: Settings, say) -> None:
        self.folder = folder / "asks"
        self.engine, self.settings, self.say = engine, settings, say

    def __call__(self, step: int) -> None:
        if not self.engine.trainer.is_world_process_zero():
            return
        for path in sorted(self.folder.glob("*.json")):
            try:
                request = json.loads(path.read_text(encoding="utf-8"))
                self.say(self.answer(step, path.stem, request))
            except Exception as error:  # an answer that fails must not cost the run
                self.say(events.Notice("warning", f"A question could not be answered at step "
                                       f"{step}: {explain(error)}"))
            finally:
                path.unlink(missing_ok=True)

    def answer(self, step: int, name: str, request: dict) -> events.Answered:
        engine, tokenizer = self.engine, self.engine.tokenizer
        prompt = wording.to_tokens(tokenizer, wording.render(
            tokenizer, messages(request["question"], self.settings.data.system_prompt)))
        room = min(self.settings.sampling.max_tokens,
                   self.settings.model.max_seq_length - len(prompt))
        drawing = Drawing(max(1, room), self.settings.sampling.temperature,
                          self.settings.sampling.top_p, seed=int(request["seed"]))
        begun = time.perf_counter()
        answers = []
        for tuned in (False, True):
            ids = engine.draw([prompt], drawing, tuned=tuned)[0]
            answers.append({"text": wording.to_text(tokenizer, ids),
                            "tokens": len(ids), "cut": ids[-1] not in engine.stops})
        return events.Answered(step, name, request["question"], answers[0], answers[1],
                               round(time.perf_counter() - begun, 2))
