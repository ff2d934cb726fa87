"""The run as a script of its own: plain TRL, or Unsloth, with the run's data, and no lab.

The script is one file with its packages in a PEP 723 header; `commands_md` says how it is started,
here, over several GPUs, and as a job on the Hub.
"""

import pprint
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.core.catalog import known_model
from lab.core.models.modules import ALL_LINEAR
from lab.core.models.template import is_prepared
from lab.core.problems import RunError
from lab.core.settings import CPU, TRL_VLLM, UNSLOTH, Settings
from lab.core.trl_arguments import arguments
from lab.services.export.card import OWN_REWARDS
from lab.services.export.loading import fenced, place_of
from lab.services.export.rewards_source import plain_rewards
from lab.services.export.script_text import (
    CONSTANTS,
    HEAD,
    IMPORT_UNSLOTH,
    IMPORTS,
    MAIN,
    PLAIN_MODEL,
    REST,
    REWARD,
    UNSLOTH_MODEL,
)
from lab.services.export.source import Source
from lab.services.runs import Runs
from lab.services.workspace import Workspace

SCRIPT, COMMANDS, DATA, BEGIN = "train.py", "COMMANDS.md", "data.jsonl", "begin"
PINNED = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
OF_THE_GPU = {UNSLOTH: ("unsloth", "unsloth_zoo", "vllm", "bitsandbytes"), TRL_VLLM: ("vllm",)}
FLAVORS = ((2_000, "l4x1"), (10_000, "a10g-large"), (float("inf"), "a100-large"))  # by millions
OF_THE_LAB = {"output_dir"}  # of the arguments: the script has its own


def write_script(source: Source, target: Path) -> None:
    """train.py, its data, and COMMANDS.md. Raises RunError where a reward cannot leave the lab."""
    target.mkdir(parents=True, exist_ok=True)
    (target / SCRIPT).write_text(script(source), encoding="utf-8")
    if not source.folder.data.is_file():
        raise RunError("The run's data is gone.", f"{DATA} is missing in its folder.",
                       "Restore the file, or start the run anew.")
    shutil.copyfile(source.folder.data, target / DATA)
    (target / COMMANDS).write_text(commands_md(source), encoding="utf-8")
    if (source.folder.begin).is_dir():
        shutil.copytree(source.folder.begin, target / BEGIN, dirs_exist_ok=True)


def engine_of(source: Source) -> str:
    """The engine that trained it, or would."""
    log = Runs(Workspace(source.folder.path.parent)).log(source.folder.id)
    plans = source.run.record.get("plans") or [{}]
    return log.engine or str(plans[0].get("engine") or CPU)


def script(source: Source) -> str:
    """The text of train.py."""
    settings, engine = source.run.settings, engine_of(source)
    if settings.rewards.own:
        raise RunError("This run's script cannot be written.", "It has rewards of your own, which "
                       "the lab runs in a limited process.",
                       f"Take the adapter: {OWN_REWARDS} goes with it.")
    code, entries = plain_rewards(settings.rewards.chosen)
    given = {key: value for key, value in arguments(settings, Path()).items()
             if key not in OF_THE_LAB}
    local = source.base != settings.model.name.strip()
    told = HEAD.format(
        dependencies="\n".join(f'#     "{one}",' for one in packages(source, engine)),
        title=source.run.name.replace("\n", " ").replace('"""', "'''"),
        differs="\n".join(f"  {one}" for one in differences(settings, engine)))
    parts = [told, IMPORT_UNSLOTH if engine == UNSLOTH else "", IMPORTS, CONSTANTS.format(
        model=source.base, local=local, system=_literal(settings.data.system_prompt),
        template=_literal(_template(source)),
        longest=settings.train.max_prompt_length, seed=settings.lora.random_state,
        config=_literal(given | _engine(settings, engine)), lora=_literal(_lora(settings)),
        model_kwargs=_literal(_loading(settings, engine))),
        REWARD, "\n\n# The rewards, as the lab has them.\n\n", code.strip(), "\n\n\nREWARDS = ",
        _rewards(entries), REST, UNSLOTH_MODEL if engine == UNSLOTH else
        PLAIN_MODEL, MAIN]
    return "".join(parts).rstrip() + "\n"


def packages(source: Source, engine: str) -> list[str]:
    """What the script needs, in the versions that the run had."""
    versions = source.run.record.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    names = (*OF_THE_GPU.get(engine, ()), *PINNED)
    return [f"{name}=={str(versions[name]).split('+')[0]}" if name in versions else name
            for name in dict.fromkeys(names)]


def differences(settings: Settings, engine: str) -> list[str]:
    """What the lab does and the script does not, a sentence each."""
    train = settings.train
    found = ["- The lab draws its answers with its own loop, so that other random answers are "
             "drawn: curves agree", "  on the whole, not point by point."] if engine == CPU else []
    found += ["- An answer on which a reward failed is left out of its group by the lab; here that "
              "reward is left", "  out of its sum."]
    if train.evaluates:
        found.append("- Held-out questions are not asked while it trains.")
    if train.kl_target:
        found.append("- `kl_target` is not followed: beta stays as it is.")
    if train.stop_at or train.patience:
        found.append("- It does not end by itself (`stop_at`, `patience`).")
    return found


def commands_md(source: Source) -> str:
    """How the script is started, in Markdown."""
    settings, engine = source.run.settings, engine_of(source)
    hub = source.base == settings.model.name.strip()
    model = "" if hub else f" --model {place_of(source.run, source.base, hub)}"
    lines = ["# Train it again", "", "`train.py` needs no lab: its head names its packages, "
             f"`{DATA}` are the run's questions.", "",
             *fenced(f"uv run {SCRIPT}{model}", "With uv, which installs them:"), "",
             *fenced(f"python {SCRIPT}{model}", "In an environment that has them:"), ""]
    if engine == UNSLOTH:
        lines += ["Unsloth trains on one GPU. For several, train in the lab with the engine "
                  "`trl-vllm` (`hardware.engine`, `hardware.num_processes`) and export that "
                  "run's script.", ""]
    else:
        lines += fenced(
            f"accelerate launch --num_processes {max(2, settings.hardware.processes())} "
            f"--mixed_precision bf16 {SCRIPT}{model}", "Over several GPUs. Set "
            "`per_device_train_batch_size` and `gradient_accumulation_steps` in the script so "
            "that their product with the processes stays "
            f"{settings.train.answers_per_step()}:") + [""]
    if model:
        lines += ["As a job on the Hub, the base model must be there too: push it first, as "
                  "USER/BASE below. A job's disk is gone at its end, so it pushes the adapter."]
    else:
        lines += ["As a job on the Hub. A job's disk is gone at its end, so it pushes the "
                  "adapter:"]
    data = f"USER/{source.run.id}-data"
    lines += ["", *fenced(
        f"hf upload {data} {DATA} --repo-type dataset --private\n"
        f"hf jobs uv run --flavor {_flavor(source)} --secrets HF_TOKEN {SCRIPT} "
        f"{'--model USER/BASE ' if model else ''}--data hf://datasets/{data}/{DATA} "
        f"--push USER/{source.run.id}"), ""]
    return "\n".join(lines)


def _flavor(source: Source) -> str:
    known = known_model(source.run.settings.model.name.strip())
    millions = known.parameters if known else 2_000
    return next(name for most, name in FLAVORS if millions < most)


def _engine(settings: Settings, engine: str) -> dict:
    """What GRPOConfig gets besides the settings; where it runs, the script finds out itself."""
    if engine not in (UNSLOTH, TRL_VLLM):
        return {}
    return {"use_vllm": True, "vllm_mode": "colocate", "vllm_enable_sleep_mode": False,
            "vllm_gpu_memory_utilization": settings.hardware.gpu_memory_utilization,
            "vllm_max_model_length": settings.model.max_seq_length,
            "vllm_importance_sampling_correction": False}


def _template(source: Source) -> str | None:
    """The chat template that it was trained with, where that is not the model's own."""
    path = source.adapter.path / "chat_template.jinja"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text if is_prepared(text) else None


def _lora(settings: Settings) -> dict:
    lora = settings.lora
    targets = ALL_LINEAR if ALL_LINEAR in lora.target_modules else list(lora.target_modules)
    return {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none",
            "target_modules": targets}


def _loading(settings: Settings, engine: str) -> dict:
    if engine != UNSLOTH:
        return {"in_4bit": settings.model.load_in_4bit}
    return {"max_seq_length": settings.model.max_seq_length, "dtype": None,
            "load_in_4bit": settings.model.load_in_4bit, "fast_inference": True,
            "max_lora_rank": settings.lora.rank,
            "gpu_memory_utilization": settings.hardware.gpu_memory_utilization,
            "random_state": settings.lora.random_state,
            # 'auto' too: where the script will run may be a smaller GPU.
            "use_gradient_checkpointing": {"off": False, "on": True}.get(
                settings.lora.gradient_checkpointing, "unsloth")}


def _rewards(entries: Sequence[dict]) -> str:
    rows = [f"    Reward({one['name']!r}, {one['function']}, {one['columns']!r}, "
            f"fallbacks={one['fallbacks']!r}, params={one['params']!r}, pays={one['pays']!r}),"
            for one in entries]
    return "\n".join(["[", *rows, "]"])


def _literal(value: object) -> str:
    return pprint.pformat(value, width=90, sort_dicts=False)
