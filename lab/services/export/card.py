"""The model card of an export: what it learnt, whether it was checked, how to load it, its limits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.core.insight.headline import percent
from lab.core.insight.verdict import SIDES
from lab.core.rewards.chosen import Chosen, format_chosen
from lab.core.rewards.registry import GOAL, SHAPE
from lab.core.settings import Settings
from lab.core.words import data_named
from lab.services.export.loading import ways
from lab.services.export.source import Judged
from lab.services.export.state import ADAPTER
from lab.services.own_rewards import KEPT
from lab.services.runs import Run
from lab.services.verdicts import Verdict

OWN_REWARDS = "rewards.py"  # what their file is called beside an adapter

Check = Mapping[str, Any]  # see check.py
Picture = tuple[str, str]  # what it shows, its file beside the card

WHAT = {ADAPTER: "A LoRA adapter for `{base}`",
        "merged": "`{base}` with a LoRA adapter merged into its weights (16 bit)",
        "gguf": "`{base}` with a LoRA adapter merged in, as GGUF",
        "bundle": "A LoRA adapter for `{base}`, alone and merged, with the script that made it"}
LIBRARIES = {ADAPTER: "peft", "bundle": "peft", "merged": "transformers", "gguf": "gguf"}


def card(run: Run, base: str, step: int | None, judged: Judged, kind: str = ADAPTER,
         check: Check | None = None, pictures: Sequence[Picture] = (),
         left_out: Sequence[str] = (), files: Sequence[str] = ()) -> str:
    """The README.md of an export of this kind, in Markdown.

    `step` is that of its weights; None where it is not known. `left_out` are sentences on what
    could not be made, `files` names of files that its own way of loading needs.
    """
    settings = run.settings
    title = run.name.replace("\n", " ")
    hub = settings is not None and base == settings.model.name.strip()
    lines = ["---", *([f"base_model: {base}"] if hub else []),
             f"library_name: {LIBRARIES[kind]}", "tags: [lora, grpo, trl]", "---", "",
             f"# {title}", "",
             f"{WHAT[kind].format(base=base)}, trained with GRPO: the model answered each question "
             "several times, reward functions scored the answers, and those that scored above "
             "their group's mean became likelier.", "", "## What it learnt", "",
             *_learnt(run, step, judged), ""]
    for shows, file in pictures:
        lines += [f"![{shows}]({file})", ""]
    lines += [f"- {one}" for one in left_out] + [""] * bool(left_out)
    if check is not None:
        lines += ["## Checked", ""]
        for one in (check, *check.get("others", ())):
            lines += [in_words(one), ""]
    lines += ["## Load it", "", *ways(kind, run, base, hub, files), ""]
    if kind == ADAPTER:
        lines += [
            "The folder holds safetensors and JSON only; nothing in it is code." if
            settings is None or not settings.rewards.own else
            f"`{OWN_REWARDS}` is the code of its rewards, for whoever wants to score as training "
            "did; nothing loads or runs it. All else is safetensors and JSON.", ""]
    lines += ["## How it was made", ""]
    lines += _facts(run, step)
    return "\n".join([*lines, "", "## What to keep in mind", "", *_honest(run, step, judged), ""])


def in_words(check: Check) -> str:
    """What the check of an export found, as a sentence or two."""
    if check.get("problem"):
        return f"**Not checked.** {check['problem']}"
    n, far = check["n"], check["max_logit_difference"]
    told = (f"{check['how']}. Of {n} {check['questions']} {round(check['parity'] * n)} earned just "
            f"what they earn in the lab ({percent(check['parity'])}), {round(check['same'] * n)} "
            "with the same words.")
    if far is not None:
        told += (f" Largest difference of a logit: {far:.2g}; the adapter itself moves one by up "
                 f"to {check['effect']:.2g}.")
    return told if check["passed"] else f"**The check failed: {check['why']}** {told}"


def _learnt(run: Run, step: int | None, judged: Judged) -> list[str]:
    """The verdict on questions that were held out, or that there is none."""
    told = []
    if judged.verdict:
        found = judged.verdict
        told += [f"**{found['headline']}**", "", *_sides(found), "",
                 f"Measured on {found['n']} questions that it was not trained on, with "
                 + (f"{found['seeds']} answers each, drawn as in training." if found["seeds"] > 1
                    else "answers drawn as in training." if found["drawn"] else "greedy answers.")]
    elif judged.other:
        told.append("No held-out verdict was made on these weights. One was made on the adapter "
                    f"of step {judged.other['step']}: {judged.other['headline']}")
    else:
        told.append("No held-out verdict was made: nothing here says whether it answers questions "
                    "better that it was not trained on.")
    before = [point for point in judged.curve if step is not None and point[0] <= step]
    if len(before) > 1:
        (first, was), (last, now) = before[0], before[-1]
        told += ["", "While it trained, held-out questions were answered too: "
                     f"{percent(was)} right at step {first}, {percent(now)} at step {last}."]
    if run.settings is not None and not run.has_goal:
        told += ["", "No goal reward was chosen: what was rewarded says how an answer is made, not "
                     "whether it is right."]
    return told


def _sides(found: Verdict) -> list[str]:
    rows = [("Right: every goal reached", *(
        f"{percent(one['share'])} ({percent(one['interval'][0])} to {percent(one['interval'][1])})"
        for one in found["right"]))] if found["right"] else []
    rows += [(name, *("–" if found[side][key] is None else write(found[side][key])
                      for side in SIDES))
             for name, key, write in (("In the asked format", "in_format", percent),
                                      ("Mean weighted reward", "reward", "{:.3f}".format),
                                      ("Tokens an answer", "tokens", "{:.0f}".format),
                                      ("Cut at the longest length", "cut", percent))]
    return ["| | Base | This adapter |", "|---|---|---|",
            *(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)]


def _facts(run: Run, step: int | None) -> list[str]:
    settings = run.settings
    if settings is None:
        return ["Its settings are lost: the run's settings.json is damaged."]
    train, lora, data = settings.train, settings.lora, settings.data
    source = {"word-problems": f"GRPO Lab's word problems, level {data.level}",
              "gsm8k": "openai/gsm8k", "reasoning-gym": data_named(data)}.get(
                  data.source) or Path(data.path).name
    if data.source == "hub":
        source = data.path
    versions = run.record.get("versions")
    used = ", ".join(f"{name} {versions[name]}" for name in ("trl", "peft", "transformers", "torch")
                     if isinstance(versions, dict) and name in versions)
    rows = [
        ("Steps", f"{'an unknown number' if step is None else step} of {run.steps} planned"),
        ("Each step", f"{train.prompts_per_step} questions × {train.num_generations} answers, "
                      f"at most {train.max_completion_length} tokens each"),
        ("Questions", source),
        *((f"Rewards: {kind}", f"`{format_chosen(chosen)}`" if chosen else "none")
          for kind, chosen in (("goal (is it right)", _of_kind(settings, GOAL)),
                               ("shape (is it well made)", _of_kind(settings, SHAPE)))),
        *([("Own rewards", f"`{OWN_REWARDS}`, sha256 `{_hash_of(run)}`")]
          if settings.rewards.own else []),
        ("Goal while training", run.goal_told),
        ("Mean weighted reward while training", _moved(run)),
        ("LoRA", f"rank {lora.rank}, alpha {lora.alpha}, on {', '.join(lora.target_modules)}"),
        ("Learning rate", f"{train.learning_rate:g}, {train.lr_scheduler_type}" + _anew(run)),
        *_lineage(run),
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


def _anew(run: Run) -> str:
    """Where its schedule was planned anew: a resume with another number of steps."""
    told = run.record.get("planned")
    return "".join(f"; planned for {one.get('steps')} steps until step {one.get('from')}"
                   for one in (told if isinstance(told, list) else ()) if isinstance(one, dict))


def _lineage(run: Run) -> list[tuple[str, str]]:
    """What it began with, where that was an adapter made before."""
    told = run.record.get("begin")
    if not isinstance(told, dict):
        return []
    where = (f"the adapter of run {told.get('run')} at step {told.get('step')}" if told.get("run")
             else f"the adapter in the folder {Path(str(told.get('from'))).name}")
    return [("Began with", f"{where}, sha256 `{told.get('sha256')}`. What is told of the base "
             "model here is of the base without it")]


def _of_kind(settings: Settings, kind: str) -> list[Chosen]:
    return [one for one in settings.rewards.chosen if one.takes_as == kind]


def _honest(run: Run, step: int | None, judged: Judged) -> list[str]:
    lines = ["- The rewards above are what was optimised, measured on training questions. They are "
             "no proof that the model answers other questions better"
             + (": that is what the verdict on held-out ones is for, and it holds for questions "
                "like those alone." if judged.verdict else
                ": compare it with its base on held-out ones.")]
    if step is not None and step < run.steps:
        lines.append(f"- This is the adapter after step {step}; the run was planned for "
                     f"{run.steps}.")
    if run.status == "failed":
        lines.append("- The run failed after this adapter was saved.")
    lines.append("- A reward function can be satisfied without doing what was meant by it. Read "
                 "some answers before relying on them.")
    return lines


def _hash_of(run: Run) -> str:
    kept = run.record.get(KEPT)
    return str(kept.get("sha256")) if isinstance(kept, dict) else "not recorded"


def _moved(run: Run) -> str:
    if run.reward_first is None or run.reward_last is None:
        return "not recorded"
    return f"{run.reward_first:.3g} at first, {run.reward_last:.3g} at last"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
