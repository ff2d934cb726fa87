"""Trains: settings and an engine -> TRL's GRPOTrainer, and what it does -> events."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from lab.backends import gpu, phases, plain, trackers, wording
from lab.backends.adaptive_kl import AdaptiveKl
from lab.backends.asking import Asking
from lab.backends.engines.base import Engine
from lab.backends.evaluating import Evaluating
from lab.backends.reporter import Reporter, together
from lab.backends.scoreboard import Scoreboard
from lab.backends.soundness import Soundness
from lab.core import events
from lab.core.adapters import BEGIN, put_in_place
from lab.core.doing import Doing
from lab.core.hardware.engines import TITLES
from lab.core.problems import BadData, WorkFailed
from lab.core.prompts import prompt_of
from lab.core.settings import Hardware, Settings
from lab.core.trl_arguments import arguments


def train(engine: Engine, settings: Settings, rows: list[dict], folder: Path, say,
          resume_from: int = 0, wants_stop=lambda: False, wants_pause=lambda: False,
          held_out: Sequence[dict] = ()) -> events.Event:
    """Run GRPO to its end or until `wants_stop()`, and wait between two steps as long as
    `wants_pause()`; returns the last event, not yet said.

    `folder` is the run's; checkpoints/step-N and adapter/ are written in it. `say` takes events.
    `held_out` are the rows kept aside, for evaluations on the way.
    """
    begun = time.monotonic()
    if settings.hardware.threads:
        torch.set_num_threads(settings.hardware.threads)
    on_gpu = engine.on_gpu
    if on_gpu:
        gpu.take()
    elif settings.hardware.processes() > 1:
        # The optimiser of a checkpoint is to come back to "cpu:0", as accelerate calls it: a place
        # that torch.load does not know.
        torch.serialization.register_package(
            5, lambda saved: None,
            lambda saved, place: saved if place.startswith("cpu:") else None)
    gauge = gpu.Gauge(on_gpu)
    engine.doing = Doing(folder if int(os.environ.get("RANK", "0")) == 0 else None)
    say(events.Phase(f"Loading the model ({TITLES[engine.plan.engine]})"))
    with phases.of_vllm(say):
        engine.load()
    tokenizer = engine.tokenizer
    say(events.Phase("Preparing the prompts"))
    rows, too_long = fitting(rows, tokenizer, settings)
    held_out, _ = fitting(held_out, tokenizer, settings)
    if too_long:
        say(events.Notice("warning", f"{too_long} of {too_long + len(rows)} questions have prompts "
                          f"of more than {settings.train.max_prompt_length} tokens and are left "
                          "out."))
    if len(rows) < settings.train.prompts_per_step:
        raise BadData("Too few questions are left.",
                      f"{len(rows)} have prompts that fit in {settings.train.max_prompt_length} "
                      f"tokens, and a step needs {settings.train.prompts_per_step}.",
                      "Raise 'Longest prompt', or shorten the system prompt.")
    say(events.Phase("Setting up the trainer"))
    score = Scoreboard(settings, tokenizer)
    torch.manual_seed(settings.lora.random_state)
    asked = arguments(settings, folder) | engine.arguments()
    prompts = Dataset.from_list(
        [{**row, "prompt": prompt_of(row, settings.data.system_prompt)}
         for row in rows])
    with phases.of_vllm(say):
        trainer = GRPOTrainer(
            args=GRPOConfig(**asked), processing_class=tokenizer, reward_funcs=score.functions,
            train_dataset=prompts, **engine.trainer_arguments(score))
    trainer.remove_callback(PrinterCallback)
    trackers.guard(trainer, settings.train.report_to, say)
    came_together(trainer.accelerator, settings.hardware, on_gpu)
    if not resume_from and (folder / BEGIN).is_dir():
        plain.begin_with(trainer.model, folder / BEGIN)  # before a copy is made that answers
    engine.bind(trainer)
    for note in engine.notes:
        say(events.Notice("info", note))
    score.bind(trainer)
    Soundness(folder, settings.train.learning_rate).bind(trainer)  # before what saves and says
    if settings.train.kl_target:
        AdaptiveKl(settings.train.kl_target).bind(trainer)
    score.scored = lambda: engine.doing("learning")
    evaluating = Evaluating(folder, engine, settings, held_out, say, resume_from, wants_stop)
    reporter = Reporter(settings, folder, say, score, gauge, wants_stop, wants_pause,
                        Asking(folder, engine, settings, say), evaluating, engine.doing)
    trainer.add_callback(reporter)
    trainer.model.peft_config["default"].base_model_name_or_path = settings.model.name
    trainable, total = trainer.model.get_nb_trainable_parameters()
    if changed := changes(asked, trainer.args):
        say(events.Notice("info", f"{TITLES[engine.plan.engine]} changed what it was given: "
                          + "; ".join(f"{name} {got!r} instead of {was!r}"
                                      for name, (was, got) in changed.items()) + "."))
    say(events.Started(settings.train.max_steps, resume_from, {
        "engine": engine.plan.engine, "rows": len(rows), "too_long": too_long,
        "parameters": total, "trainable": trainable, "threads": torch.get_num_threads(),
        "processes": trainer.accelerator.num_processes, "changed": changed, **engine.facts(),
        **({"gpu": torch.cuda.get_device_name(), "gpu_before_gb": round(gauge.before, 2)}
           if on_gpu else {})}))
    checkpoint = str(folder / "checkpoints" / f"step-{resume_from}") if resume_from else None
    trainer.train(resume_from_checkpoint=checkpoint)
    engine.doing.end()
    save_adapter(trainer, folder / "adapter")
    gauge.take()
    step = trainer.state.global_step
    if step < settings.train.max_steps:
        return events.Stopped(step, evaluating.reason)
    return events.Finished(step, round(time.monotonic() - begun - reporter.held, 1), {
        "gpu_peak_gb": round(gauge.highest, 2)} if on_gpu else {})


def came_together(accelerator, hardware: Hardware, on_gpu: bool) -> None:
    """Raise WorkFailed where the processes do not train together as they were meant to.

    A launcher that starts fewer, or does not cut the base, leaves a run that looks well and does
    part of the work.
    """
    there, wanted = accelerator.num_processes, hardware.processes()
    if there != wanted:
        raise WorkFailed("The processes of this run did not find each other.",
                         f"It needs {wanted}, and {there} came together.", "Start it with the "
                         "command that is shown, on every host.")
    kind = accelerator.distributed_type.value
    cut = {"fsdp": "FSDP", "zero3": "DEEPSPEED"}.get(hardware.sharding)
    if on_gpu and wanted > 1 and cut and kind != cut:
        raise WorkFailed("The base is not cut over the GPUs.", f"The processes run as {kind}, not "
                         f"as {cut}.", "Set 'Over several GPUs' to ddp, or see to accelerate.")


def fitting(rows: Sequence[dict], tokenizer, settings: Settings) -> tuple[list[dict], int]:
    """(rows whose prompt fits, how many do not)."""
    kept = [row for row in rows
            if len(wording.to_tokens(tokenizer, wording.render(
                tokenizer, prompt_of(row, settings.data.system_prompt))))
            <= settings.train.max_prompt_length]
    return kept, len(rows) - len(kept)


def changes(asked: dict[str, Any], args: GRPOConfig) -> dict[str, list]:
    """{name: [asked, got]} where the trainer's arguments are not what they were set to."""
    found = {}
    for name, was in asked.items():
        got = getattr(args, name, None)
        got = getattr(got, "value", got)  # transformers turns names into enums
        if got != was and not (not was and not got):
            found[name] = [was, got if isinstance(got, int | float | str | list) else str(got)]
    return found


def save_adapter(trainer: GRPOTrainer, target: Path) -> None:
    """Write the adapter and its step beside its place, then move it there: never half of it."""
    draft = target.with_name(".adapter")
    if trainer.is_world_process_zero():
        shutil.rmtree(draft, ignore_errors=True)
    together()
    trainer.save_model(str(draft))
    together()  # a base that is cut in parts was gathered for it
    if trainer.is_world_process_zero():
        for extra in ("training_args.bin",):  # pickled; loading an adapter needs none
            (draft / extra).unlink(missing_ok=True)
        put_in_place(draft, target, trainer.state.global_step)
