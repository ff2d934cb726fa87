"""Trains: settings -> TRL's GRPOTrainer on the CPU, and what it does -> events."""

import shutil
import time
from collections import defaultdict
from pathlib import Path

import psutil
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from lab.backends import plain
from lab.backends.generate import Drawing, MergedCopy, complete
from lab.core import events, metrics
from lab.core.problems import BadData
from lab.core.prompts import messages
from lab.core.rewards.registry import REWARDS, BatchReward, total_of
from lab.core.settings import Settings

ERRORS = "reward_errors/"  # metrics that are counts: summed over the steps of a point
COPY_SHARE = 0.2  # of the free memory that a merged copy for the rollouts may take


def train(settings: Settings, model_path: str, rows: list[dict], folder: Path, say,
          resume_from: int = 0, wants_stop=lambda: False) -> events.Event:
    """Run GRPO to its end or until `wants_stop()`; returns the last event, not yet said.

    `folder` is the run's; checkpoints/step-N and adapter/ are written in it. `say` takes events.
    """
    begun = time.monotonic()
    if settings.hardware.threads:
        torch.set_num_threads(settings.hardware.threads)
    say(events.Phase("Loading the model"))
    tokenizer = plain.load_tokenizer(model_path)
    model = plain.load_model(model_path)
    say(events.Phase("Preparing the prompts"))
    rows, too_long = fitting(rows, tokenizer, settings)
    if too_long:
        say(events.Notice("warning", f"{too_long} of {too_long + len(rows)} questions have prompts "
                          f"of more than {settings.train.max_prompt_length} tokens and are left "
                          "out."))
    if len(rows) < settings.train.prompts_per_step:
        raise BadData("Too few questions are left.",
                      f"{len(rows)} have prompts that fit in {settings.train.max_prompt_length} "
                      f"tokens, and a step needs {settings.train.prompts_per_step}.",
                      "Raise 'Longest prompt', or shorten the system prompt.")
    score = Scoreboard(settings, tokenizer)
    rollout = Rollout(settings, tokenizer, score)
    torch.manual_seed(settings.lora.random_state)
    trainer = GRPOTrainer(
        model=model, args=config(settings, folder), processing_class=tokenizer,
        reward_funcs=score.functions, rollout_func=rollout,
        train_dataset=Dataset.from_list(
            [{**row, "prompt": messages(row["question"], settings.data.system_prompt)}
             for row in rows]),
        peft_config=LoraConfig(
            r=settings.lora.rank, lora_alpha=settings.lora.alpha, lora_dropout=0.0, bias="none",
            target_modules=list(settings.lora.target_modules), task_type="CAUSAL_LM"))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Reporter(settings, folder, say, score, wants_stop))
    trainer.model.peft_config["default"].base_model_name_or_path = settings.model.name
    rollout.bind(trainer.model)
    trainable, total = trainer.model.get_nb_trainable_parameters()
    say(events.Started(settings.train.max_steps, resume_from, {
        "rows": len(rows), "too_long": too_long, "parameters": total, "trainable": trainable,
        "threads": torch.get_num_threads(), "rollouts": rollout.how}))
    checkpoint = str(folder / "checkpoints" / f"step-{resume_from}") if resume_from else None
    trainer.train(resume_from_checkpoint=checkpoint)
    save_adapter(trainer, folder / "adapter")
    step = trainer.state.global_step
    if step < settings.train.max_steps:
        return events.Stopped(step)
    return events.Finished(step, round(time.monotonic() - begun, 1))


def fitting(rows: list[dict], tokenizer, settings: Settings) -> tuple[list[dict], int]:
    """(rows whose prompt fits, how many do not)."""
    kept = [row for row in rows
            if len(plain.to_tokens(tokenizer, plain.render(
                tokenizer, messages(row["question"], settings.data.system_prompt))))
            <= settings.train.max_prompt_length]
    return kept, len(rows) - len(kept)


def config(settings: Settings, folder: Path) -> GRPOConfig:
    """TRL's configuration, every value that matters explicit, so that no default can differ."""
    t = settings.train
    return GRPOConfig(
        output_dir=str(folder / "checkpoints"), max_steps=t.max_steps, seed=t.seed,
        per_device_train_batch_size=t.per_device_train_batch_size(),
        gradient_accumulation_steps=t.gradient_accumulation_steps(),
        num_generations=t.num_generations, max_completion_length=t.max_completion_length,
        temperature=t.temperature, top_p=t.top_p, top_k=0, repetition_penalty=1.0,
        learning_rate=t.learning_rate, adam_beta1=t.adam_beta1, adam_beta2=t.adam_beta2,
        weight_decay=t.weight_decay, warmup_steps=round(t.warmup_ratio * t.max_steps),
        lr_scheduler_type=t.lr_scheduler_type, optim=t.optim, max_grad_norm=t.max_grad_norm,
        beta=t.beta, loss_type=t.loss_type, scale_rewards=t.scale_rewards, epsilon=t.epsilon,
        epsilon_high=t.epsilon_high, num_iterations=t.num_iterations,
        importance_sampling_level=t.importance_sampling_level,
        mask_truncated_completions=t.mask_truncated_completions,
        reward_weights=[c.weight for c in settings.rewards.chosen],
        multi_objective_aggregation="sum_then_normalize", shuffle_dataset=True,
        use_cpu=True, bf16=False, fp16=False, use_vllm=False, dataloader_num_workers=0,
        gradient_checkpointing=settings.lora.gradient_checkpointing != "off",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="steps", save_steps=t.save_steps, logging_strategy="steps",
        logging_steps=min(t.logging_steps, t.max_steps), disable_tqdm=True,
        report_to=[] if t.report_to == "none" else [t.report_to],
        log_completions=False, remove_unused_columns=False)


class Scoreboard:
    """Stands between TRL and the rewards: keeps what was scored, and how long it took.

    TRL calls each function of `functions` once per rollout, in order; after the last one the
    rollout is complete and becomes metrics and group records.
    """

    def __init__(self, settings: Settings, tokenizer) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.rewards = [BatchReward(chosen) for chosen in settings.rewards.chosen]
        self.functions = [self._watched(reward) for reward in self.rewards]
        self.best = sum(c.weight * REWARDS[c.name].max_score for c in settings.rewards.chosen)
        self.stops: set[int] = set()
        self.seconds: dict[str, float] = defaultdict(float)
        self.pending: dict[str, list[float]] = defaultdict(list)
        self.groups: list[dict] = []
        self._scores: dict[str, list[float | None]] = {}

    def _watched(self, reward: BatchReward):
        def scored(prompts, completions, completion_ids, **columns):
            begun = time.perf_counter()
            before = reward.error_count
            columns.pop("log_metric", None)  # errors are counted here; TRL would average them
            result = reward(prompts=prompts, completions=completions,
                            completion_ids=completion_ids, **columns)
            self.seconds["reward"] += time.perf_counter() - begun
            self.pending[ERRORS + reward.__name__].append(float(reward.error_count - before))
            self._scores[reward.__name__] = result
            if reward is self.rewards[-1]:
                self._complete(prompts, completions, completion_ids, columns)
            return result

        scored.__name__ = reward.__name__  # TRL makes its metric keys from it
        return scored

    def _complete(self, prompts, completions, completion_ids, columns) -> None:
        size = self.settings.train.num_generations
        totals = [self._total(i) for i in range(len(completions))]
        grouped = [totals[i:i + size] for i in range(0, len(totals), size)]
        for name, value in metrics.rollout_metrics(grouped, self.best).items():
            self.pending[name].append(value)
        # The first ones: which questions those are changes from step to step.
        wanted = min(self.settings.train.log_groups, len(grouped))
        self.groups = [self._record(g, size, prompts, completions, completion_ids, columns, totals)
                       for g in range(wanted)]
        self._scores = {}

    def _total(self, i: int) -> float | None:
        return total_of({name: scores[i] for name, scores in self._scores.items()},
                        self.settings.rewards.chosen)

    def _record(self, g, size, prompts, completions, ids, columns, totals) -> dict:
        lines = range(g * size, (g + 1) * size)
        gains = self._advantages(totals, lines)
        failed = {reward.__name__: {e.completion: e.error for e in reward.errors}
                  for reward in self.rewards}
        answers = []
        for i, gain in zip(lines, gains, strict=True):
            text = completions[i][0]["content"]
            answers.append({
                "text": text, "tokens": len(ids[i]), "cut": ids[i][-1] not in self.stops,
                "rewards": {name: scores[i] for name, scores in self._scores.items()},
                "errors": {name: told[text] for name, told in failed.items() if text in told},
                "total": totals[i], "advantage": gain})
        row = {name: values[lines[0]] for name, values in columns.items()
               if isinstance(values, list)}
        return metrics.group_record(plain.render(self.tokenizer, prompts[lines[0]]), row, answers)

    def _advantages(self, totals, lines) -> list[float]:
        how = self.settings.train.scale_rewards
        group = [totals[i] for i in lines]
        if how != "batch":
            return metrics.advantages(group, scale=how == "group")
        known = [t for t in totals if t is not None]
        spread = float(torch.tensor(known).std()) if len(known) > 1 else 0.0
        return [a / (spread + 1e-4) for a in metrics.advantages(group, scale=False)]

    def take(self) -> dict[str, float]:
        """What was gathered since the last call: means, and sums of errors."""
        taken = {name: sum(values) / (1 if name.startswith(ERRORS) else len(values))
                 for name, values in self.pending.items()}
        self.pending.clear()
        return taken


class Rollout:
    """TRL's `rollout_func`: the answers to a batch of prompts, drawn by our own loop.

    The same seed and step draw the same answers, also after a resume.
    """

    def __init__(self, settings: Settings, tokenizer, score: Scoreboard) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.score = score
        self.tokens = 0

    def bind(self, peft_model) -> None:
        """Decide once which weights answer: a merged copy where memory allows, else the model."""
        self.stops = plain.stop_tokens(peft_model, self.tokenizer)
        self.score.stops = {*self.stops, self.tokenizer.pad_token_id}
        size = sum(p.numel() * p.element_size() for p in peft_model.parameters())
        fits = size < COPY_SHARE * psutil.virtual_memory().available
        self.copy = MergedCopy(peft_model) if fits else None
        self.how = "merged copy" if fits else "adapter"

    def __call__(self, prompts: list, trainer) -> dict:
        begun = time.perf_counter()
        size = self.settings.train.num_generations
        unique = prompts[::size]  # TRL hands every prompt over once per answer, in blocks
        ids = [plain.to_tokens(self.tokenizer, plain.render(self.tokenizer, p)) for p in unique]
        drawing = Drawing(self.settings.train.max_completion_length,
                          self.settings.train.temperature, self.settings.train.top_p,
                          seed=self.settings.train.seed + 1_000_003 * trainer.state.global_step)
        model = trainer.model
        if self.copy:
            self.copy.refresh()
            model = self.copy.model
        was_training = model.training
        answers = complete(model.eval(), ids, drawing, self.stops, copies=size)
        model.train(was_training)
        seconds = time.perf_counter() - begun
        self.score.seconds["generation"] += seconds
        self.score.pending["tokens_per_second"].append(sum(map(len, answers)) / seconds)
        return {"prompt_ids": [line for line in ids for _ in range(size)],
                "completion_ids": answers, "logprobs": None}


class Reporter(TrainerCallback):
    """Says what the trainer does: points, samples and checkpoints; and asks whether to stop."""

    def __init__(self, settings: Settings, folder: Path, say, score: Scoreboard,
                 wants_stop) -> None:
        self.settings, self.folder, self.say = settings, folder, say
        self.score, self.wants_stop = score, wants_stop
        self._since = time.perf_counter()
        self._logged = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._since, self._logged = time.perf_counter(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if self.wants_stop():
            control.should_training_stop = control.should_save = control.should_log = True

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
            "seconds/update": max(0.0, whole - sum(spent.values()))}))
        self.say(events.Samples(state.global_step, self.score.groups))

    def on_save(self, args, state, control, **kwargs):
        """Rename transformers' folder to ours once it is whole, and delete the oldest ones."""
        step = state.global_step
        checkpoints = self.folder / "checkpoints"
        target = checkpoints / f"step-{step}"
        shutil.rmtree(target, ignore_errors=True)
        (checkpoints / f"checkpoint-{step}").rename(target)
        there = sorted(int(p.name.removeprefix("step-")) for p in checkpoints.glob("step-*"))
        for old in there[:-self.settings.train.save_total_limit]:
            shutil.rmtree(checkpoints / f"step-{old}", ignore_errors=True)
        self.say(events.Checkpoint(step))


def save_adapter(trainer: GRPOTrainer, target: Path) -> None:
    """Write the adapter beside its place, then move it there: never half an adapter."""
    draft = target.with_name(".adapter")
    shutil.rmtree(draft, ignore_errors=True)
    trainer.save_model(str(draft))
    for extra in ("training_args.bin",):  # pickled; loading an adapter needs none
        (draft / extra).unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
