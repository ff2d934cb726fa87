"""Takes an adapter out of the lab: a zip that plain peft loads, with a card that says it all."""

import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

from lab.core.problems import RunError
from lab.core.rewards.registry import format_chosen
from lab.core.settings import STARTER, Settings
from lab.services.runs import Run, Runs
from lab.services.workspace import RunFolder, Workspace

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
STARTER_NAME = "grpo-lab-starter"  # what the card and adapter_config.json call the shipped model

# Small text files a tokenizer is made of. Anything else that lies there (optimiser state, pickles)
# stays where it is.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
                   "chat_template.jinja", "chat_template.json", "generation_config.json")


def adapter_zip(folder: RunFolder, checkpoint: int | None, out: Path) -> Path:
    """Write a zip with the adapter of `checkpoint` (None: the newest) and a model card.

    The zip appears in one move, or not at all. Raises RunError.
    """
    out = Path(out).expanduser()
    source = folder.adapter_at(checkpoint)
    config = _config(folder, source)
    run = Runs(Workspace(folder.path.parent)).get(folder.id)
    base = base_name(run.settings, config)
    step = checkpoint if checkpoint is not None else _step_of(folder, source, run)
    if out.is_dir():
        raise RunError(f"{out} is a folder.", "The export is one zip file.",
                       f"Give a file name, for example {out / (zip_name(folder, checkpoint))}.")
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("README.md", card(run, base, step))
            config |= {"base_model_name_or_path": base}
            archive.writestr(CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
            archive.write(source / WEIGHTS, WEIGHTS, zipfile.ZIP_STORED)
            for name in TOKENIZER_FILES:
                if (source / name).is_file():
                    archive.write(source / name, name)
        draft.replace(out)
    except OSError as error:
        raise RunError(f"{out} could not be written.", f"{error.strerror or error}.",
                       "Free some space, or export to another folder.") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return out


def zip_name(folder: RunFolder, checkpoint: int | None) -> str:
    """The file name that an export is offered under."""
    return f"{folder.id}-{'adapter' if checkpoint is None else f'step-{checkpoint}'}.zip"


def base_name(settings: Settings | None, config: dict) -> str:
    """What the adapter's base model is called away from this machine: no path of it."""
    name = settings.model.name.strip() if settings else str(
        config.get("base_model_name_or_path") or "")
    if name == STARTER:
        return STARTER_NAME
    looks_local = name.startswith((".", "/", "~", "\\")) or len(name.split("/")) != 2
    if looks_local or Path(name).expanduser().exists():
        return Path(name.replace("\\", "/")).name or "base-model"
    return name


def card(run: Run, base: str, step: int) -> str:
    """The README.md of an exported adapter: what it is, how to load it, how it was made."""
    settings = run.settings
    title = run.name.replace("\n", " ")
    hub = settings is not None and base == settings.model.name.strip()
    lines = ["---", *([f"base_model: {base}"] if hub else []), "library_name: peft",
             "tags: [lora, grpo, trl]", "---", "", f"# {title}", "",
             f"A LoRA adapter for `{base}`, trained with GRPO: the model answered each question "
             "several times, reward functions scored the answers, and those that scored above "
             "their group's mean became likelier.", "", "## Load it", ""]
    if hub:
        lines += _loading(base)
    elif settings is not None and settings.model.name.strip() == STARTER:
        lines += ["The base model is the starter model that ships with GRPO Lab, in its folder "
                  "`assets/starter`. Put the path of that folder in the second line.", "",
                  *_loading("path/to/grpo-lab/assets/starter")]
    else:
        lines += [f"The base model was a folder named `{base}`. Put its path in the second line.",
                  "", *_loading(f"path/to/{base}")]
    lines += ["", "The folder holds safetensors and JSON only; nothing in it is code.", "",
              "## How it was made", ""]
    lines += _facts(run, step)
    return "\n".join([*lines, "", "## What to keep in mind", "", *_honest(run, step), ""])


def _loading(base: str) -> list[str]:
    return ["```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'base = "{base}"',
            'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")',
            "tokenizer = AutoTokenizer.from_pretrained(base)",
            "```", "", '`"."` is this folder.']


def _facts(run: Run, step: int) -> list[str]:
    settings = run.settings
    if settings is None:
        return ["Its settings are lost: the run's settings.json is damaged."]
    train, lora, data = settings.train, settings.lora, settings.data
    source = {"word-problems": f"GRPO Lab's word problems, level {data.level}",
              "gsm8k": "openai/gsm8k"}.get(data.source) or Path(data.path).name
    if data.source == "hub":
        source = data.path
    versions = run.record.get("versions")
    used = ", ".join(f"{name} {versions[name]}" for name in ("trl", "peft", "transformers", "torch")
                     if isinstance(versions, dict) and name in versions)
    rows = [
        ("Steps", f"{step} of {run.steps} planned"),
        ("Each step", f"{train.prompts_per_step} questions × {train.num_generations} answers, "
                      f"at most {train.max_completion_length} tokens each"),
        ("Questions", source),
        ("Rewards", f"`{format_chosen(settings.rewards.chosen)}`"),
        ("Mean weighted reward while training", _moved(run)),
        ("LoRA", f"rank {lora.rank}, alpha {lora.alpha}, on {', '.join(lora.target_modules)}"),
        ("Learning rate", f"{train.learning_rate:g}, {train.lr_scheduler_type}"),
        ("KL weight (beta)", f"{train.beta:g}"),
        ("Rollout temperature", f"{train.temperature:g}"),
        ("Seed", str(train.seed)),
        ("Versions", used or "not recorded"),
    ]
    table = ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)]
    if data.system_prompt.strip():
        table += ["", "System prompt it was trained with; ask with the same:", "", "```text",
                  data.system_prompt.strip().replace("```", "'''"), "```"]
    return table


def _honest(run: Run, step: int) -> list[str]:
    lines = ["- The rewards above are what was optimised, measured on training questions. They are "
             "no proof that the model answers other questions better: compare it with its base on "
             "held-out ones."]
    if run.steps and step < run.steps:
        lines.append(f"- This is the adapter after step {step}; the run was planned for "
                     f"{run.steps}.")
    if run.status == "failed":
        lines.append("- The run failed after this adapter was saved.")
    lines.append("- A reward function can be satisfied without doing what was meant by it. Read "
                 "some answers before relying on them.")
    return lines


def _moved(run: Run) -> str:
    if run.reward_first is None or run.reward_last is None:
        return "not recorded"
    return f"{run.reward_first:.3g} at first, {run.reward_last:.3g} at last"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _config(folder: RunFolder, source: Path) -> dict:
    try:
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
        reason = "it is not a JSON object"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise RunError(f"The adapter of run {folder.id} is damaged.",
                   f"{CONFIG} cannot be read: {reason}.", "Export another checkpoint.")


def _step_of(folder: RunFolder, source: Path, run: Run) -> int:
    """After which step this adapter was saved."""
    if source != folder.adapter:
        return int(source.name.removeprefix("step-"))
    return run.step
