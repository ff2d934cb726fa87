"""The answering worker: one base model, adapters switched on it, several sides streamed at once."""

import json
import queue
import threading
import time
from collections import OrderedDict
from pathlib import Path

import torch

from lab.backends import plain, wording
from lab.backends.generate import Drawing, decode
from lab.core.asked import ANSWERING, LOADING, READY, RENDERING
from lab.core.problems import BadModel, explain

ADAPTERS_KEPT = 8  # loaded at a time; the one not used for longest goes first
SAY_EVERY = 0.05  # seconds between two updates of one side


class Models:
    """The base model in memory, and the adapters that were loaded onto it."""

    def __init__(self, on_gpu: bool) -> None:
        self.path = self.arguments = ""
        self.on_gpu, self.in_4bit = on_gpu, False

    def use(self, path: str, in_4bit: bool, arguments: str) -> None:
        """Make this the base model, with these arguments of its chat template. Its tokenizer comes
        first: a preview needs no weights."""
        in_4bit = in_4bit and self.on_gpu
        if (path, in_4bit) != (self.path, self.in_4bit):
            self.path, self.in_4bit = "", in_4bit
            self.tokenizer = wording.load_tokenizer(path, arguments)
            self.model = None
            self.adapters: OrderedDict[tuple[str, float], str] = OrderedDict()
            self.path, self.arguments = path, arguments
        elif arguments != self.arguments:
            self.tokenizer = wording.load_tokenizer(path, arguments)
            self.arguments = arguments

    def base(self):
        """The model with its weights, and with the adapters loaded so far."""
        if self.model is None:
            self.model = plain.load_model(self.path, self.on_gpu, self.in_4bit)
            self.longest = getattr(self.model.config, "max_position_embeddings", None)
        return self.model

    def adapter(self, folder: str) -> str:
        """Load this adapter if needed; its name in the model. A rewritten file is loaded anew."""
        weights = Path(folder) / "adapter_model.safetensors"
        key = (folder, weights.stat().st_mtime if weights.is_file() else 0.0)
        if key not in self.adapters:
            name = f"adapter{time.monotonic_ns()}"
            self.model = plain.load_adapter(self.base(), Path(folder), name)
            self.adapters[key] = name
            while len(self.adapters) > ADAPTERS_KEPT:
                self.model.delete_adapter(self.adapters.popitem(last=False)[1])
        self.adapters.move_to_end(key)
        return self.adapters[key]

    def switch(self, adapter: str | None) -> None:
        """Answer with this adapter from now on, or (None) as the base model does."""
        if not self.adapters:
            return
        if adapter is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(adapter)


class Server:
    """Answers requests one after the other; "stop" is heard while one is being answered."""

    def __init__(self, incoming, outgoing, on_gpu: bool) -> None:
        self.outgoing = outgoing
        self.models = Models(on_gpu)
        self.requests: queue.Queue = queue.Queue()
        self.stopped: set[int] = set()
        threading.Thread(target=self._listen, args=(incoming,), daemon=True).start()

    def _listen(self, incoming) -> None:
        for line in incoming:
            request = json.loads(line)
            if request["ask"] == "stop":
                self.stopped.add(request["number"])
            else:
                self.requests.put(request)
        self.requests.put(None)  # the app is gone

    def say(self, number: int, **body) -> None:
        self.outgoing.write(json.dumps({"number": number, **body}).encode() + b"\n")

    def run(self) -> int:
        answers = {"stream": self.stream, "render": self.render, "effect": self.effect}
        self.say(0, at=READY)
        while (request := self.requests.get()) is not None:
            number = request["number"]
            self.say(number, at=LOADING)
            try:
                plain.take_threads(request)
                self.models.use(request["model"], request["in_4bit"],
                                request["template_arguments"])
                answers[request["ask"]](number, request)
            except Exception as error:
                problem = explain(error)
                self.say(number, last=True, problem=problem.to_dict())
        return 0

    def render(self, number: int, request: dict) -> None:
        tokenizer = self.models.tokenizer
        self.say(number, at=RENDERING)
        texts = [wording.render(tokenizer, c) for c in request["conversations"]]
        self.say(number, last=True, rendered=[
            {"text": text, "tokens": len(wording.to_tokens(tokenizer, text))} for text in texts])

    def effect(self, number: int, request: dict) -> None:
        name = self.models.adapter(request["adapter"])
        self.say(number, at=RENDERING)
        text = wording.render(self.models.tokenizer, request["messages"])
        ids = torch.tensor([wording.to_tokens(self.models.tokenizer, text)],
                           device=self.models.model.device)
        self.say(number, at=ANSWERING)
        logits = []
        for adapter in (None, name):
            self.models.switch(adapter)
            with torch.inference_mode():
                logits.append(self.models.model(input_ids=ids, logits_to_keep=1).logits[0, -1])
        self.say(number, last=True, largest=float((logits[0] - logits[1]).abs().max()))

    def stream(self, number: int, request: dict) -> None:
        for side in request["sides"]:  # loading a first adapter wraps the model: all before any
            if side["adapter"]:
                self.models.adapter(side["adapter"])
        self.models.base()
        self.say(number, at=RENDERING)
        sides = [Stream(self.models, i, side, request) for i, side in enumerate(request["sides"])]
        self.say(number, at=ANSWERING)
        while any(not side.done for side in sides):
            if number in self.stopped:
                for side in sides:
                    side.done = True
            for side in sides:
                if not side.done:
                    side.advance()
                if side.wants_to_speak():
                    self.say(number, **side.report())
        self.stopped.discard(number)
        self.say(number, last=True, working=False)


class Stream:
    """One side's answer as it grows. Sides take turns, a token each."""

    def __init__(self, models: Models, index: int, side: dict, request: dict) -> None:
        self.models, self.index = models, index
        tokenizer, model = models.tokenizer, models.base()
        self.adapter = side["adapter"] and models.adapter(side["adapter"])
        prompt = wording.to_tokens(tokenizer, wording.render(tokenizer, side["messages"]))
        sampling = request["sampling"]
        room = sampling["max_tokens"]
        if models.longest:
            room = min(room, models.longest - len(prompt))
            if room < 1:
                raise BadModel("The conversation is longer than the model allows.",
                               f"It has {len(prompt)} tokens, the model was made for "
                               f"{models.longest}.", "Clear it, or ask something shorter.")
        drawing = Drawing(room, sampling["temperature"], sampling["top_p"], request["seed"])
        self.stops = set(wording.stop_tokens(model, tokenizer))
        self.tokens: list[int] = []
        self.done = self.cut = self.told_last = False
        self.spoke = 0.0
        self.steps = decode(model, [prompt], drawing, list(self.stops))

    def advance(self) -> None:
        self.models.switch(self.adapter)
        step = next(self.steps, None)
        if step is None:
            self.done = True
            self.cut = bool(self.tokens) and self.tokens[-1] not in self.stops
        else:
            self.tokens.append(step[0][1])

    def wants_to_speak(self) -> bool:
        if self.done:
            return not self.told_last
        return time.monotonic() - self.spoke > SAY_EVERY

    def report(self) -> dict:
        self.spoke, self.told_last = time.monotonic(), self.done
        text = wording.to_text(self.models.tokenizer, self.tokens)
        # half a character at the end shows as a replacement mark until its rest has come
        text = text if self.done else text.rstrip("\ufffd")
        return {"side": self.index, "text": text, "done": self.done,
                "tokens": len(self.tokens), "cut": self.cut}


def serve(incoming, outgoing, on_gpu: bool) -> int:
    """Answer until `incoming` ends; one JSON object a line in both directions."""
    return Server(incoming, outgoing, on_gpu).run()
