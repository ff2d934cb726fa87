"""The answering worker on a GPU: the same protocol as chat.py, answered by one vLLM engine."""

import asyncio
import json
import threading
import time

from lab.backends import wording
from lab.backends.answering.chat import SAY_EVERY
from lab.core.asked import ANSWERING, LOADING, READY, RENDERING
from lab.core.problems import BadModel, explain


class VllmServer:
    """Answers requests one after the other; the sides of one stream together in one batch."""

    def __init__(self, incoming, outgoing) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.wanted, self.answers = None, None

    def say(self, number: int, **body) -> None:
        self.outgoing.write(json.dumps({"number": number, **body}).encode() + b"\n")

    async def run(self) -> int:
        self.loop = asyncio.get_running_loop()
        self.requests: asyncio.Queue = asyncio.Queue()
        self.stops: dict[int, asyncio.Event] = {}
        threading.Thread(target=self._listen, daemon=True).start()
        answer = {"stream": self.stream, "render": self.render, "effect": self.effect}
        self.say(0, at=READY)
        while (request := await self.requests.get()) is not None:
            number = request["number"]
            self.say(number, at=LOADING)
            try:
                wanted = request["model"], request["template_arguments"]
                if wanted != self.wanted:
                    self.tokenizer = wording.load_tokenizer(*wanted)
                    self.wanted = wanted
                await answer[request["ask"]](number, request)
            except Exception as error:
                if self.answers is not None and self.answers.engine.errored:
                    self._forget()  # the next request starts a new engine
                self.say(number, last=True, problem=explain(error).to_dict())
            self.stops.pop(number, None)
        self._forget()
        return 0

    def _listen(self) -> None:
        for line in self.incoming:
            request = json.loads(line)
            self.loop.call_soon_threadsafe(self._take, request)
        self.loop.call_soon_threadsafe(self.requests.put_nowait, None)  # the app is gone

    def _take(self, request: dict) -> None:
        if request["ask"] == "stop":
            self.stops.setdefault(request["number"], asyncio.Event()).set()
        else:
            self.stops.setdefault(request["number"], asyncio.Event())
            self.requests.put_nowait(request)

    def _forget(self) -> None:
        answers, self.answers = self.answers, None
        if answers is not None:
            answers.close()

    async def _engine(self, number: int, request: dict, folders: list[str]):
        """The engine for this request: the one there is, or a new one."""
        from lab.backends.answering.vllm_answers import EngineSettings, VllmAnswers, rank_of

        asked = request["engine"]
        rank = max([asked["rank"], *(rank_of(folder) for folder in folders)])
        wanted = EngineSettings(request["model"], request["in_4bit"], asked["max_model_len"],
                                asked["share"], rank, asked["cuda_graphs"])
        if self.answers is not None and not self._serves(wanted):
            self._forget()
        if self.answers is None:
            self.say(number, status="Starting vLLM: half a minute, or a minute the first time.")
            try:
                self.answers = await VllmAnswers.start(wanted)
            except RuntimeError:
                # Another process that takes or gives back memory while vLLM measures it makes
                # this fail; the exception does not say so. Once more, then it is told.
                self.say(number, status="vLLM did not start; trying once more.")
                self.answers = await VllmAnswers.start(wanted)
        return self.answers

    def _serves(self, wanted) -> bool:
        has = self.answers.settings
        return ((has.model, has.in_4bit) == (wanted.model, wanted.in_4bit)
                and has.rank >= wanted.rank and has.max_model_len >= wanted.max_model_len)

    async def render(self, number: int, request: dict) -> None:
        self.say(number, at=RENDERING)
        texts = [wording.render(self.tokenizer, c) for c in request["conversations"]]
        self.say(number, last=True, rendered=[
            {"text": text, "tokens": len(wording.to_tokens(self.tokenizer, text))}
            for text in texts])

    async def effect(self, number: int, request: dict) -> None:
        answers = await self._engine(number, request, [request["adapter"]])
        self.say(number, at=RENDERING)
        prompt = wording.to_tokens(self.tokenizer, wording.render(self.tokenizer,
                                                                  request["messages"]))
        self.say(number, at=ANSWERING)
        change = await answers.effect(prompt, await answers.adapter(request["adapter"]))
        self.say(number, last=True, largest=change)

    async def stream(self, number: int, request: dict) -> None:
        folders = [side["adapter"] for side in request["sides"] if side["adapter"]]
        answers = await self._engine(number, request, folders)
        for folder in folders:
            await answers.adapter(folder)
        self.say(number, at=RENDERING)
        stop = self.stops[number]
        sides = [asyncio.create_task(self._side(number, place, side, request, answers))
                 for place, side in enumerate(request["sides"])]
        waiting = asyncio.create_task(stop.wait())
        everything = asyncio.gather(*sides)
        try:
            await asyncio.wait({waiting, everything}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await answers.abort([f"{number}-{place}" for place in range(len(sides))])
            await everything
        finally:
            waiting.cancel()
        self.say(number, last=True, working=False)

    async def _side(self, number: int, place: int, side: dict, request: dict, answers) -> None:
        prompt = wording.to_tokens(self.tokenizer, wording.render(self.tokenizer, side["messages"]))
        sampling = request["sampling"]
        room = min(sampling["max_tokens"], answers.settings.max_model_len - len(prompt))
        if room < 1:
            raise BadModel("The conversation is longer than the engine was started for.",
                           f"It has {len(prompt)} tokens, the limit is "
                           f"{answers.settings.max_model_len}.",
                           "Clear it, or ask something shorter.")
        adapter = side["adapter"] and await answers.adapter(side["adapter"])
        tokens: list[int] = []
        spoke, ended = 0.0, None
        self.say(number, at=ANSWERING)
        params = answers.sampling(room, sampling["temperature"], sampling["top_p"],
                                  request["seed"])
        async for new, why in answers.stream(prompt, params, adapter or None,
                                             f"{number}-{place}"):
            tokens += new
            ended = why
            if time.monotonic() - spoke > SAY_EVERY:
                spoke = time.monotonic()
                # half a character at the end shows as a mark until its rest has come
                self._report(number, place, tokens, done=False)
        self._report(number, place, tokens, done=True, cut=ended == "length")

    def _report(self, number: int, place: int, tokens: list[int], done: bool,
                cut: bool = False) -> None:
        text = wording.to_text(self.tokenizer, tokens)
        self.say(number, side=place, text=text if done else text.rstrip("\ufffd"), done=done,
                 tokens=len(tokens), cut=cut)


def serve(incoming, outgoing) -> int:
    """Answer until `incoming` ends; one JSON object a line in both directions."""
    return asyncio.run(VllmServer(incoming, outgoing).run())
