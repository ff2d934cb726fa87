"""One vLLM engine that answers as the base model and with adapters, all in one batch."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from lab.backends import plain
from lab.backends.graphs import decode_graphs
from lab.core.adapters import ADAPTER

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started for
SEQUENCES = 64  # at once: an evaluation asks hundreds of questions
KNOWN = 20  # likeliest tokens whose log-probability vLLM tells


@dataclass(frozen=True)
class EngineSettings:
    """What one engine is started with; another one needs a new engine."""

    model: str
    in_4bit: bool
    max_model_len: int  # tokens of prompt and answer
    share: float  # of the GPU's memory
    rank: int  # highest rank of an adapter
    cuda_graphs: bool = False


class VllmAnswers:
    """An AsyncLLM and the adapters it has been given. Use it on one event loop.

    Each version of an adapter's file gets a name and number of its own: vLLM's prefix cache is
    keyed by the name, and would mix the words of two checkpoints.
    """

    def __init__(self, engine: AsyncLLM, settings: EngineSettings) -> None:
        self.engine, self.settings = engine, settings
        self.adapters: dict[tuple[str, float], LoRARequest] = {}
        self._numbers = itertools.count(1)

    @classmethod
    async def start(cls, settings: EngineSettings) -> "VllmAnswers":
        """Start the engine; takes from twenty seconds to minutes. The event loop goes on."""
        arguments = AsyncEngineArgs(
            model=settings.model, enable_lora=True, max_lora_rank=allowed_rank(settings.rank),
            max_loras=2, max_cpu_loras=8, gpu_memory_utilization=settings.share,
            max_model_len=settings.max_model_len, max_num_seqs=SEQUENCES,
            enforce_eager=not settings.cuda_graphs, disable_log_stats=True,
            **({"compilation_config": decode_graphs(SEQUENCES)} if settings.cuda_graphs else {}),
            **({"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
               if settings.in_4bit else {}))
        engine = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        return cls(engine, settings)

    async def adapter(self, folder: str) -> LoRARequest:
        """Load this adapter if needed. Raises BadModel; the engine lives on.

        A request with an adapter that cannot be loaded would end the whole engine.
        """
        weights = plain.weights_of_adapter(Path(folder))
        key = (folder, weights.stat().st_mtime)
        if key not in self.adapters:
            await asyncio.to_thread(plain.check_adapter, self.settings.model, Path(folder))
            number = next(self._numbers)
            request = LoRARequest(f"adapter-{number}", number, folder)
            await self.engine.add_lora(request)
            first = not self.adapters
            self.adapters[key] = request
            if first:  # the first answer with any adapter compiles kernels: seconds
                await self.whole([1], self.sampling(1), request)
        return self.adapters[key]

    def sampling(self, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0,
                 seed: int = 0, **more) -> SamplingParams:
        return SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p,
                              seed=seed, **more)

    async def stream(self, prompt: Sequence[int], sampling: SamplingParams,
                     adapter: LoRARequest | None, request_id: str
                     ) -> AsyncIterator[tuple[list[int], str | None]]:
        """New tokens as they come, with the last ones why it ended: stop, length or abort."""
        sampling.output_kind = RequestOutputKind.DELTA
        async for out in self.engine.generate({"prompt_token_ids": list(prompt)}, sampling,
                                              request_id, lora_request=adapter):
            yield list(out.outputs[0].token_ids), out.outputs[0].finish_reason

    async def whole(self, prompt: Sequence[int], sampling: SamplingParams,
                    adapter: LoRARequest | None):
        """The finished output of one request."""
        sampling.output_kind = RequestOutputKind.FINAL_ONLY
        last = None
        async for out in self.engine.generate({"prompt_token_ids": list(prompt)}, sampling,
                                              f"whole-{next(self._numbers)}",
                                              lora_request=adapter):
            last = out
        return last.outputs[0]

    async def effect(self, prompt: Sequence[int], adapter: LoRARequest | None,
                     against: LoRARequest | None = None) -> float:
        """Largest change that the adapter makes to the log-probability of a likely next token,
        against the base model or another adapter.

        vLLM tells the likeliest tokens only. One that is missing on a side counts with the least
        likely of that side, so that the figure is a lower bound.
        """
        sides = []
        for request in (against, adapter):
            out = await self.whole(prompt, self.sampling(1, logprobs=KNOWN), request)
            sides.append({token: told.logprob for token, told in out.logprobs[0].items()})
        least = [min(side.values()) for side in sides]
        return max((abs(sides[0].get(token, least[0]) - sides[1].get(token, least[1]))
                    for token in {*sides[0], *sides[1]}), default=0.0)

    async def abort(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            await self.engine.abort(request_id)

    def close(self) -> None:
        """End the engine's process; the GPU's memory is back when this returns."""
        self.engine.shutdown()


def allowed_rank(rank: int) -> int:
    return next((allowed for allowed in RANKS if allowed >= rank), RANKS[-1])


def rank_of(folder: str) -> int:
    """The rank of an adapter, as its configuration says; 0 where that cannot be read."""
    try:
        return int(json.loads((Path(folder) / ADAPTER).read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
