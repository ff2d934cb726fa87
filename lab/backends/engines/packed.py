"""The learning pass without Unsloth: each prompt of a group is read once, and nothing is padded.

TRL reads a batch as a rectangle: every answer behind a copy of its prompt, all as wide as the
widest. Here the batch is one stream of tokens, each prompt followed by its answers:

    prompt A | answer 1 | answer 2 | answer 3 | prompt B | answer 4 | ...

Norms, projections and feed-forward look at one token at a time, so they take the stream as it is.
Attention alone must know who sees whom: an answer sees its prompt and itself. Logits are made where
a token of an answer is to be predicted, a piece at a time. What comes back has TRL's rectangle
again, with the same numbers and gradients, so loss and metrics stay TRL's own.

One file, to be read from top to bottom: none of its four parts is of use without the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lab.backends.engines.lean_layers import make_lean
from lab.core.hardware.forecast_gpu import CARDS, card_named, leaving_out_pays
from lab.core.hardware.memory import PIECE, PIECE_ON_GPU
from lab.core.hardware.shapes import Shape
from lab.core.insight.metrics import DIFFERENCE
from lab.core.problems import BadModel

NAME = "grpo_lab_packed"  # of this attention among transformers' own
# How near a model must come to its padded pass: above rounding, in 32 and in 16 bit, and below
# mistakes.
CLOSE, CLOSE_IN_HALF = 1e-3, 0.25
HALF = (torch.bfloat16, torch.float16)
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
SCALES = ("logit_scale", "logits_scaling", "output_multiplier")  # of the logits, after the head


# 1. How a batch lies in the stream.


@dataclass(frozen=True)
class Packing:
    """A batch of answers to G different prompts, as one stream of N tokens.

    An answer's last token predicts nothing and is left out of the stream. T is the number of all
    tokens to be predicted.
    """

    tokens: torch.Tensor  # (1, N)
    positions: torch.Tensor  # (1, N), counted from the start of each prompt
    predictors: torch.Tensor  # (T,) places in the stream whose hidden states predict
    targets: torch.Tensor  # (T,) the tokens that are to be predicted
    rows: torch.Tensor  # (T,) where they stand in TRL's rectangle
    columns: torch.Tensor  # (T,)
    sight: "Rectangles | Sequences"  # who sees whom


@dataclass(frozen=True)
class Part:
    """A prompt, or an answer without its last token, in the stream."""

    start: int
    size: int
    prompt: int | None  # of an answer: the number of its prompt's part

    @property
    def places(self) -> range:
        return range(self.start, self.start + self.size)


Groups = dict[tuple[int, ...], list[tuple[int, list[int]]]]  # {prompt: [(row, answer)]}, tokens


def groups_of(input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int) -> Groups:
    """The groups of TRL's rectangle (B, W), without its padding.

    The last `logits_to_keep` columns are answers, padded on the right, the others prompts, padded
    on the left. TRL mixes the rows of a batch, and may cut a group in two: what is alike is found
    by looking.
    """
    border = input_ids.shape[1] - logits_to_keep
    before = attention_mask[:, :border].sum(1).tolist()
    after = attention_mask[:, border:].sum(1).tolist()
    groups: Groups = {}
    for row, line in enumerate(input_ids.tolist()):
        prompt = tuple(line[border - before[row]:border])
        groups.setdefault(prompt, []).append((row, line[border:border + after[row]]))
    return groups


def pack(groups: Groups, model) -> Packing:
    """On the model's device, and as its attention takes it."""
    tokens, positions, predictors, targets, rows, columns = [], [], [], [], [], []
    parts: list[Part] = []
    for prompt, answers in groups.items():
        own = len(parts)
        parts.append(Part(len(tokens), len(prompt), None))
        tokens += prompt
        positions += range(len(prompt))
        last = len(tokens) - 1
        for row, answer in answers:
            start, size = len(tokens), max(0, len(answer) - 1)
            parts.append(Part(start, size, own))
            tokens += answer[:size]
            positions += range(len(prompt), len(prompt) + size)
            predictors += [last, *range(start, start + size)][:len(answer)]
            targets += answer
            rows += [row] * len(answer)
            columns += range(len(answer))
    sight = (Sequences if takes_sequences(model) else Rectangles).of(parts)
    return on(model.device, Packing(
        torch.tensor([tokens]), torch.tensor([positions]),
        *(torch.tensor(values, dtype=torch.long)
          for values in (predictors, targets, rows, columns)), sight))


def on(device: torch.device, one):
    """A dataclass of tensors, on that device."""
    def moved(value):
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return on(device, value) if is_dataclass(value) else value

    return type(one)(*(moved(getattr(one, field.name)) for field in fields(one)))


# 2. Who sees whom. Prompts see themselves, each token what is before it; answers see their prompt
# and themselves. Two ways to say so, for the kernels that there are.


@dataclass(frozen=True)
class Rectangles:
    """For any kernel: G prompts and B answers as padded rectangles, and a mask.

    P is the length of the longest prompt, A that of the longest answer without its last token.
    """

    prompts: torch.Tensor  # (G, P) places of each prompt's tokens; beyond its end, of any
    answers: torch.Tensor  # (B, A) places of each answer's tokens; the same
    seen: torch.Tensor  # (B, P + A) places of what an answer may see: its prompt, then itself
    mask: torch.Tensor  # (B, 1, A, P + A) who of it is seen by which of its tokens
    back: torch.Tensor  # (N,) where each token of the stream is in prompts and answers, laid flat

    @classmethod
    def of(cls, parts: list[Part]) -> "Rectangles":
        count = max(part.start + part.size for part in parts)
        of_prompts = [part for part in parts if part.prompt is None]
        of_answers = [part for part in parts if part.prompt is not None]

        def places(of: list[Part]) -> tuple[torch.Tensor, torch.Tensor]:
            """Places as a rectangle, and which of them are not beyond the end."""
            start, size = (torch.tensor(values)[:, None] for values in zip(*(
                (part.start, part.size) for part in of), strict=True))
            step = torch.arange(max(1, int(size.max())))
            return (start + step).clamp(max=count - 1), step < size

        prompts, in_prompt = places(of_prompts)
        answers, in_answer = places(of_answers)
        own = torch.tensor([of_prompts.index(parts[part.prompt]) for part in of_answers])
        width = answers.shape[1]
        before = torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.cat([in_prompt[own][:, None].expand(-1, width, -1),
                          before.expand(len(own), -1, -1)], 2)[:, None]
        there = torch.cat([in_prompt.flatten(), in_answer.flatten()])
        back = torch.empty(count, dtype=torch.long)
        back[torch.cat([prompts.flatten(), answers.flatten()])[there]] = there.nonzero().squeeze(1)
        return cls(prompts, answers, torch.cat([prompts[own], answers], 1), mask, back)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               scaling: float | None) -> torch.Tensor:
        """(heads, N, size) each -> (N, heads, size)."""
        shared = len(query) != len(key)
        if shared and query.is_cuda:  # no quick kernel takes a mask and heads that are shared
            key, value = (one.repeat_interleave(len(query) // len(one), 0) for one in (key, value))
            shared = False
        query, key, value = (one.transpose(0, 1) for one in (query, key, value))

        def seen_by(places: torch.Tensor, others: torch.Tensor, **how) -> torch.Tensor:
            """(B, L) and (B, S) places -> (B * L, heads, size) what the first see of the second."""
            asking, asked, told = (taken(stream, where).transpose(1, 2) for stream, where in (
                (query, places), (key, others), (value, others)))
            out = F.scaled_dot_product_attention(asking, asked, told, scale=scaling,
                                                 enable_gqa=shared, **how)
            return out.transpose(1, 2).flatten(0, 1)

        out = torch.cat([seen_by(self.prompts, self.prompts, is_causal=True),
                         seen_by(self.answers, self.seen, attn_mask=self.mask)])
        return taken(out, self.back)


def taken(stream: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(N, ...) of a stream -> (*places, ...): what is at these places. As the rows of a table are
    looked up, for the way back of that is quick on a CPU, and of indexing it is not."""
    return F.embedding(places, stream.flatten(1)).unflatten(-1, stream.shape[1:])


@dataclass(frozen=True)
class Sequences:
    """For FlashAttention: S sequences one after the other as they lie in the stream, and K places
    that they see. Nothing is padded, and memory does not grow with the square of a length."""

    starts: torch.Tensor  # (S + 1,) of each sequence in the stream, and its end
    seen: torch.Tensor  # (K,) places of what each may see
    seen_starts: torch.Tensor  # (S + 1,) of each in `seen`
    longest: int
    longest_seen: int

    @classmethod
    def of(cls, parts: list[Part]) -> "Sequences":
        seen, starts, seen_starts = [], [0], [0]
        for part in parts:
            if part.size:
                seen += [*(() if part.prompt is None else parts[part.prompt].places), *part.places]
                starts.append(part.start + part.size)
                seen_starts.append(len(seen))
        lengths, seen_lengths = ([b - a for a, b in pairwise(edges)]
                                 for edges in (starts, seen_starts))
        return cls(torch.tensor(starts, dtype=torch.int32), torch.tensor(seen),
                   torch.tensor(seen_starts, dtype=torch.int32), max(lengths), max(seen_lengths))

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               scaling: float | None) -> torch.Tensor:
        """(heads, N, size) each -> (N, heads, size)."""
        query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        # A sequence that sees more than itself ends where what it sees ends: FlashAttention's rule.
        return torch.ops.aten._flash_attention_forward(
            query, key.index_select(0, self.seen), value.index_select(0, self.seen), self.starts,
            self.seen_starts, self.longest, self.longest_seen, 0.0, True, False, scale=scaling)[0]


def takes_sequences(model) -> bool:
    """Whether torch's FlashAttention computes this model's attention on its device."""
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (model.device.type == "cuda" and torch.version.cuda is not None
            and torch.cuda.get_device_capability(model.device)[0] >= 8
            and model.dtype in HALF and size <= 256 and size % 8 == 0)


def attention(module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              attention_mask: torch.Tensor | None, packing: Packing | None = None,
              dropout: float = 0.0, scaling: float | None = None, **kwargs):
    """transformers' `sdpa`; where there is a packing, over a stream (1, heads, N, size)."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask,
                                      dropout=dropout, scaling=scaling, **kwargs)
    return packing.sight.attend(query[0], key[0], value[0], scaling)[None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


# 3. How likely each token was.


class LogProbabilities(torch.autograd.Function):
    """(T, hidden) states -> (T,) log-probabilities of their targets, and (T,) entropies.

    Only PIECE logits exist at a time. Where a gradient will be wanted, it is made beside them: for
    each token the direction in which its hidden state would make the target likelier, hidden
    numbers instead of the vocabulary's. Entropies have no gradient. Of 16-bit logits the
    probabilities are made in 32 bit.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature):
        kind = torch.promote_types(hidden.dtype, torch.float32)
        chosen, entropies = (hidden.new_empty(len(targets), dtype=kind) for _ in range(2))
        ctx.directions = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = max(1, (PIECE_ON_GPU if hidden.is_cuda else PIECE) // len(weight))
        for piece in (slice(at, at + size) for at in range(0, len(targets), size)):
            logits = F.linear(hidden[piece], weight, bias)
            logs = (logits if temperature == 1 else logits.to(kind).div_(temperature)).log_softmax(
                -1, dtype=kind)
            del logits
            chosen[piece] = logs.gather(-1, targets[piece, None]).squeeze(-1)
            chances = logs.exp()
            entropies[piece] = -torch.einsum("tv,tv->t", chances, logs)
            if ctx.directions is not None:
                expected = chances.to(weight.dtype) @ weight
                ctx.directions[piece] = (weight[targets[piece]] - expected) / temperature
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx, wanted, _):
        directions = ctx.directions
        return (wanted[:, None] * directions).to(directions.dtype), None, None, None, None


def read(model, packing: Packing, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(T,) log-probabilities and (T,) entropies of a stream, by a model whose attention is NAME."""
    # With a mask of four dimensions, whatever it says, transformers makes none of its own.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device)
    with in_its_precision(model):
        hidden = model.base_model(
            input_ids=packing.tokens, position_ids=packing.positions, attention_mask=no_mask,
            packing=packing, use_cache=False).last_hidden_state[0]
        head = model.get_output_embeddings()
        return LogProbabilities.apply(taken(hidden, packing.predictors), head.weight, head.bias,
                                      packing.targets, temperature)


def in_its_precision(model) -> torch.autocast:
    """A 16-bit base with an adapter in 32 bit computes in 16, as accelerate lets TRL's pass do."""
    return torch.autocast(model.device.type, dtype=model.dtype,
                          enabled=model.dtype in HALF)


def fit(model) -> str:
    """Make a model of transformers read streams: "". Or leave it as it is, and say why."""
    if why := unfit(model):
        return why
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        apart = apart_from_padded(model)
        close = CLOSE if model.dtype == torch.float32 else CLOSE_IN_HALF
        why = "" if apart <= close else f"its answers come out otherwise in it, by {apart:.1g}"
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = f"this model fails in it ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    if why:
        model.set_attn_implementation(before)
    return why


def unfit(model) -> str:
    """What speaks against it in a model's configuration, or ""."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    for found, why in (
        (not model._supports_attention_backend or config._attn_implementation != "sdpa",
         "this model brings its own kind of attention"),
        (kinds != {"full_attention"} or getattr(config, "sliding_window", None),
         "some layers of this model see only a part of what is before (a sliding window)"),
        (any(getattr(config, name, None) for name in SOFT_CAPS), "this model caps its logits"),
        (getattr(config, "attention_dropout", 0), "this model leaves out attention at random"),
        (any(getattr(config, name, None) not in (None, 1.0) for name in SCALES),
         "this model scales its logits"),
        (type(head) is not torch.nn.Linear or head.weight.requires_grad,
         "the layer that makes the logits is learnt too"),
    ):
        if found:
            return why
    return ""


@torch.no_grad()
def apart_from_padded(model) -> float:
    """How far log-probabilities of a few made-up tokens are from those of a padded rectangle."""
    keep, place = 4, torch.arange(9)
    ids = (torch.arange(27).view(3, 9) * 7 + 11) % model.config.get_text_config().vocab_size
    ids[1, :5] = ids[0, :5]  # two answers to one prompt, and one to another
    mask = torch.stack([(place >= 5 - prompt) & (place < 5 + answer)
                        for prompt, answer in ((3, 4), (3, 2), (5, 3))]).long()
    was = model.training
    model.eval()
    try:
        packing = pack(groups_of(ids, mask, keep), model)
        ours, _ = read(model, packing, 1.0)
        with in_its_precision(model):
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
                           use_cache=False).logits
    finally:
        model.train(was)
    logs = logits[:, -keep - 1:-1].float().log_softmax(-1).cpu()
    theirs = logs[packing.rows.cpu(), packing.columns.cpu(), packing.targets.cpu()]
    return float((ours.cpu() - theirs).abs().max().nan_to_num(torch.inf))


# 4. The pass in TRL's trainer.


def paying(model) -> Callable[[int], bool]:
    """Whether it is quicker to leave so many tokens out of the way back. They are read in a pass of
    their own then, which on a GPU takes more launches of kernels than few tokens are worth."""
    if model.device.type == "cpu":
        return lambda tokens: True
    try:
        shape = Shape.from_config(model.config.to_dict())
    except BadModel:  # of a family whose size the lab cannot read
        return lambda tokens: True
    card = card_named(torch.cuda.get_device_name(model.device)) or CARDS["H100"]
    return lambda tokens: leaving_out_pays(shape, card, tokens, 1 + model.is_gradient_checkpointing)


class PackedPass:
    """Takes the place of the pass that a GRPOTrainer sends its batches through.

    An answer whose advantage is 0 pulls at nothing. A group of such answers has a gradient of 0
    where nothing else pulls at it (a KL weight, an entropy bonus): it is read for the metrics, and
    left out of the way back where that is quicker.
    """

    def __init__(self, trainer) -> None:
        self.trainer = trainer
        self.compute_loss = trainer._compute_loss
        self.pulls: list[bool] | None = None  # which answers do, where some may not
        self.latest: torch.Tensor | None = None  # (B, C) log-probabilities of the last pass

    def take_over(self) -> str:
        """From here on batches go through this pass: "". Or nothing is changed, and it says why."""
        trainer = self.trainer
        if trainer._entropy_bonus_enabled:
            return "an entropy bonus needs the entropy's gradient"
        if trainer.aux_loss_enabled:
            return "a mixture of experts has a loss of its own"
        if why := fit(trainer.model.get_base_model()):
            return why
        make_lean(trainer.model)
        self.pays = paying(trainer.model.get_base_model())
        trainer._get_per_token_logps_and_entropies = self.log_probabilities
        trainer._compute_loss = self.loss
        if trainer.accelerator.num_processes > 1:
            self.bring_gradients_together()
        return ""

    def bring_gradients_together(self) -> None:
        """Several processes have the mean of their gradients before each step of the optimizer.

        DistributedDataParallel does this for what goes through its own forward, which this pass
        does not. A process whose groups all lack signal brings zeros.
        """
        trainer, train = self.trainer, self.trainer.training_step
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        sizes = [p.numel() for p in trained]

        def together(*args, **kwargs):
            loss = train(*args, **kwargs)
            if trainer.accelerator.sync_gradients:
                flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                                  for p in trained])
                torch.distributed.all_reduce(flat)
                flat /= trainer.accelerator.num_processes
                for weight, mean in zip(trained, flat.split(sizes), strict=True):
                    weight.grad = mean.view_as(weight)
            return loss

        trainer.training_step = together

    def loss(self, model, inputs):
        """TRL's, which asks for the log-probabilities on its way."""
        if self.trainer.beta == 0:
            self.pulls = (inputs["advantages"] != 0).tolist()
        try:
            loss = self.compute_loss(model, inputs)
        finally:
            self.pulls = None
        self.tell_difference(inputs)
        return loss

    def tell_difference(self, inputs) -> None:
        """Log how far the weights that drew are from those that learn, in nats a token, under
        TRL's own name for it, which TRL logs only where it corrects for it.

        A merged copy in 16 bit rounds: a small adapter could drown in it. Where a rollout is used
        again, what counts are the log-probabilities from before its first use.
        """
        drawn = inputs.get("sampling_per_token_logps")
        if drawn is None:
            return
        learnt = inputs.get("old_per_token_logps")
        apart = (self.latest if learnt is None else learnt) - drawn
        apart = apart[inputs["completion_mask"].bool() & ~apart.isnan()]  # NaN: it was not told
        if apart.numel():
            self.trainer._metrics["train"][DIFFERENCE].append(float(apart.abs().mean()))

    def log_probabilities(self, model, input_ids, attention_mask, logits_to_keep, *,
                          compute_entropy: bool = False, **kwargs):
        """((B, C) log-probabilities of the answers' tokens, entropies or None, None); 0 where there
        is no token. Takes and gives what GRPOTrainer's method of that name does."""
        model = self.trainer.accelerator.unwrap_model(model).get_base_model()
        groups = groups_of(input_ids, attention_mask, logits_to_keep)
        dead = {prompt: answers for prompt, answers in groups.items()
                if self.pulls and not any(self.pulls[row] for row, _ in answers)}
        if not self.pays(sum(len(prompt) + sum(len(answer) for _, answer in answers)
                             for prompt, answers in dead.items())):
            dead = {}
        if dead and len(dead) == len(groups):
            dead.popitem()  # a loss needs something to go back to
        alive = {prompt: answers for prompt, answers in groups.items() if prompt not in dead}
        log_probs, entropies = (torch.zeros(len(input_ids), logits_to_keep, device=model.device)
                                for _ in range(2))
        for part, learns in ((alive, True), (dead, False)):
            if not part:
                continue
            packing = pack(part, model)
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                found, entropy = read(model, packing, self.trainer.temperature)
            where = packing.rows, packing.columns
            log_probs = log_probs.index_put(where, found)
            entropies.index_put_(where, entropy)
        self.latest = log_probs.detach()
        return log_probs, entropies if compute_entropy else None, None
