"""The Rewards tab: what is rewarded and how much, and a place to score any answer at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from lab.core.knobs import plain
from lab.core.prompts import in_format
from lab.core.rewards.registry import REWARDS, Chosen, score
from lab.services.lab import Lab
from lab.ui.forms import Form
from lab.ui.widgets import FREE, explained, number, problems_html

ANSWER = "42"
CHEATS = (  # answers that are after the reward and not the task
    ("Cheat: the tags with nothing in them", in_format("", "")),
    ("Cheat: a guess in perfect format", in_format("I guess.", "7")),
    ("Cheat: many answers, the last one right",
     "".join(f"<answer>{n}</answer>" for n in range(37, 43))),
    ("Cheat: the bare number, no reasoning", ANSWER),
    ("Cheat: the right block twice", in_format("6 * 7 = 42", ANSWER) * 2),
    ("Cheat: the tags named, not used",
     "I write <reasoning> and </reasoning>, then <answer> and </answer>. 42"),
)


@dataclass
class RewardsTab:
    notes: gr.HTML
    preset: gr.Dropdown
    completion: gr.Textbox
    answer: gr.Textbox
    table: gr.HTML


def build_tab(lab: Lab, form: Form) -> RewardsTab:
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            gr.HTML("<h2>What is rewarded</h2><p class='help'>Each answer's reward is the sum of "
                    "raw score × weight. The model learns from how the answers to one question "
                    "differ in it. A weight of 0 watches "
                    "a reward without training on it.</p>")
            notes = gr.HTML(elem_id="reward-problems")
            form.rewards()
        with gr.Column(scale=3, min_width=300, elem_classes="side"), \
                gr.Column(elem_classes="sheet"):
            gr.HTML("<h3>Score an answer</h3><p class='help'>Just as training would, with the "
                    "switches and weights on this page.</p>")
            first, *_ = presets()
            preset = gr.Dropdown(list(presets()), value=first, label="Example",
                                 info="From each reward's own examples, and some that cheat.",
                                 elem_id="score-preset")
            completion = gr.Textbox(presets()[first][0], label="Answer of a model", lines=7,
                                    max_lines=20, elem_id="score-completion")
            answer = gr.Textbox(presets()[first][1], label="Reference answer",
                                elem_id="score-answer")
            table = gr.HTML(elem_id="score-table")
    return RewardsTab(notes, preset, completion, answer, table)


def wire(tab: RewardsTab, form: Form, triggers: Sequence[Callable]) -> None:
    """`triggers` are further moments at which the shown answer is scored."""
    rewards = form.inputs("rewards.")

    @tab.preset.input(inputs=tab.preset, outputs=[tab.completion, tab.answer], **FREE)
    @explained
    def fill(label: str):
        return presets()[label]

    @gr.on([*triggers, tab.completion.change, tab.answer.change,
            *(widget.input for widget in rewards.values())],
           inputs=[tab.completion, tab.answer], inputs_kwargs=rewards, outputs=tab.table,
           trigger_mode="always_last", **FREE)
    @explained
    def scores(completion: str, answer: str, **values) -> str:
        wrong = [p for p in form.problems(values) if p.field.startswith("rewards.")]
        if wrong:
            return problems_html(wrong)
        return score_html(completion or "", answer or "", form.chosen(values))


def presets() -> dict[str, tuple[str, str]]:
    """{label: (completion, reference answer)}: every reward's examples, once each, and cheats."""
    found, seen = {}, set()
    for reward in reversed(REWARDS.values()):
        for completion, columns, expected in reward.examples:
            if completion in seen:
                continue
            seen.add(completion)
            mark = "cannot be judged" if expected is None else plain(expected)
            label = f"{reward.label} = {mark}: {_short(completion)}"
            alike = sum(known.startswith(label) for known in found)
            label += f" ({alike + 1})" if alike else ""
            found[label] = completion, columns.get("answer", ANSWER)
    return found | {label: (text, ANSWER) for label, text in CHEATS}


def _short(text: str) -> str:
    text = " ".join(text.split()) or "(empty)"
    return text if len(text) <= 32 else f"{text[:31]}…"


def score_html(completion: str, answer: str, chosen: Sequence[Chosen]) -> str:
    """Raw score × weight = part for each reward, and their sum: from the one `score` function."""
    scored = score(completion, {"answer": answer}, chosen)
    rows = []
    for one in chosen:
        raw = scored.rewards[one.name]
        if error := scored.errors.get(one.name):
            rows.append(f"<tr><th scope='row'>{escape(REWARDS[one.name].label)}</th>"
                        f"<td colspan='3' class='wrong'>{escape(error)}</td></tr>")
            continue
        part = None if raw is None else raw * one.weight
        rows.append(f"<tr data-reward='{escape(one.name)}'>"
                    f"<th scope='row'>{escape(REWARDS[one.name].label)}</th>"
                    f"<td class='number'>{number(raw)}</td>"
                    f"<td class='number'>× {number(one.weight)}</td>"
                    f"<td class='number'>{number(part)}</td></tr>")
    best = sum(REWARDS[c.name].max_score * c.weight for c in chosen)
    return ("<div class='table' tabindex='0'><table aria-live='polite'><thead><tr><th>Reward</th>"
            "<th class='number'>Score</th><th class='number'>Weight</th>"
            "<th class='number'>Counts</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody><tfoot><tr><th scope='row'>Reward of this answer</th>"
            f"<td colspan='3' class='number total' data-total='{scored.total}'>"
            f"<b>{number(scored.total)}</b> of at most {number(best)}</td></tr></tfoot>"
            "</table></div>")
