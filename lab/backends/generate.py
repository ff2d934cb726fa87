"""Draws answers token by token with transformers: for rollouts, evaluation and streamed chat.

transformers' `generate` serves any model and pays for it at each token. This loop does only what
the lab needs and is faster at it: one prefill for all answers to a prompt, answers that have ended
leave the batch, and the weights may be those of a merged copy (see `MergedCopy`).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

KEEP = 0.75  # when fewer of a batch's rows are still going, the rest is dropped from it
ROOM = 64  # tokens that the cache has room for ahead of those that it holds


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn. Temperature 0 takes the likeliest token."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


@torch.inference_mode()
def decode(model, prompts: Sequence[Sequence[int]], drawing: Drawing, stops: Sequence[int],
           copies: int = 1) -> Iterator[list[tuple[int, int]]]:
    """Yield, for each new token, [(row, token)] of the rows still going; a stop token is included.

    Row p * copies + c is copy c of prompt p. Prompts are padded on the left.
    """
    lengths = torch.tensor([len(p) for p in prompts])
    width = int(lengths.max())
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt):] = torch.tensor(prompt)
        mask[i, width - len(prompt):] = 1
    device = next(model.parameters()).device
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer
                    for layer in cache.layers]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions,
                   past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        mask, logits = (t.repeat_interleave(copies, 0) for t in (mask, logits))
        lengths = lengths.repeat_interleave(copies)
    ragged = bool((mask == 0).any())
    rows = torch.arange(len(mask), device=device)  # which answer each line of the batch is
    place = lengths.to(device)  # position of the next token
    going = torch.ones(len(mask), dtype=torch.bool, device=device)
    stop_ids = torch.tensor(list(stops), device=device)
    generator = torch.Generator(device).manual_seed(drawing.seed)
    for count in range(1, drawing.max_new_tokens + 1):
        tokens = draw(logits, drawing, generator)
        yield [(row, token) for row, token, on in
               zip(rows.tolist(), tokens.tolist(), going.tolist(), strict=True) if on]
        going &= ~torch.isin(tokens, stop_ids)
        left = int(going.sum())
        if not left or count == drawing.max_new_tokens:
            return
        if left < KEEP * len(going):
            keep = going.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            rows, tokens, mask, place, going = (
                t[keep] for t in (rows, tokens, mask, place, going))
        if ragged:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = model(input_ids=tokens[:, None], attention_mask=mask if ragged else None,
                       position_ids=place[:, None], past_key_values=cache, use_cache=True,
                       logits_to_keep=1).logits[:, -1]
        place = place + 1


def draw(logits: torch.Tensor, drawing: Drawing, generator: torch.Generator) -> torch.Tensor:
    """(B, V) logits -> (B,) tokens."""
    if drawing.temperature == 0:
        return logits.argmax(-1)
    chances = (logits.float() / drawing.temperature).softmax(-1)
    if drawing.top_p < 1:
        ordered, order = chances.sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered > drawing.top_p  # the first token always stays
        chances = torch.zeros_like(chances).scatter(-1, order, ordered.masked_fill(beyond, 0.0))
    # The first of independent exponential clocks, each as fast as its token is likely: the same
    # chances as torch.multinomial, which takes a tenth of the whole rollout on a CPU.
    return (chances / torch.empty_like(chances).exponential_(generator=generator)).argmax(-1)


def complete(model, prompts: Sequence[Sequence[int]], drawing: Drawing, stops: Sequence[int],
             copies: int = 1, told: Callable[[int], None] = lambda done: None) -> list[list[int]]:
    """Whole answers, `copies` for each prompt in a block; the stop token is kept. `told` hears
    after each token how many have ended."""
    answers: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    for step in decode(model, prompts, drawing, stops, copies):
        told(len(answers) - len(step))
        for row, token in step:
            answers[row].append(token)
    return answers


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, tokens, size), with room for more behind them.

    transformers' own copies all of them into a larger place for each new token, which takes most of
    the time that a small model needs for it.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._places = [states[:, :, :0] for states in (key_states, value_states)]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args,
               **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        held = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = held + key_states.shape[2]
        for at, states in enumerate((key_states, value_states)):
            place = self._places[at]
            if place.shape[2] < end:
                batch, heads, _, size = states.shape
                wider = states.new_empty(batch, heads, end + ROOM, size)
                wider[:, :, :held] = place[:, :, :held]
                self._places[at] = place = wider
            place[:, :, held:end] = states
        self._show(end)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._move(lambda place: place.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._move(lambda place: place[indices])

    def _move(self, change) -> None:
        held = self.get_seq_length()
        self._places = [change(place) for place in self._places]
        self._show(held)

    def _show(self, end: int) -> None:
        self.keys, self.values = (place[:, :, :end] for place in self._places)


class MergedCopy:
    """A plain copy of a LoRA model, whose weights are the base plus the adapter. What has no
    adapter, such as the embeddings, it shares with the model.

    Answers come faster from it than through peft's layers, and since every refresh starts from
    the untouched base, nothing drifts as it does when merging and unmerging in place.
    """

    def __init__(self, peft_model) -> None:
        self._layers = [(name, layer) for name, layer in
                        peft_model.get_base_model().named_modules() if isinstance(layer, LoraLayer)]
        base = peft_model.get_base_model()
        memo = {id(layer): copy.deepcopy(layer.get_base_layer()) for _, layer in self._layers}
        within = {id(weight) for _, layer in self._layers for weight in layer.parameters()}
        memo |= {id(weight): weight for weight in base.parameters() if id(weight) not in within}
        self.model = copy.deepcopy(base, memo).eval()
        for _, layer in self._layers:
            memo[id(layer)].requires_grad_(False)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the adapter's weights as they are now."""
        for name, layer in self._layers:
            target = self.model.get_submodule(name)
            weight = layer.get_base_layer().weight
            for adapter in layer.active_adapters:
                low, high = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                if getattr(layer, "fan_in_fan_out", False):  # GPT-2's, the other way round
                    low, high = high.T, low.T
                if low.dtype is weight.dtype:
                    torch.addmm(weight, high, low, alpha=layer.scaling[adapter],
                                out=target.weight.data)
                else:  # a base in 16 bit, an adapter in 32
                    target.weight.data.copy_(torch.addmm(
                        weight.float(), high.float(), low.float(), alpha=layer.scaling[adapter]))
                weight = target.weight.data
