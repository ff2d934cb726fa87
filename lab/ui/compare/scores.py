"""What stands around an answer of Compare, as HTML: its badge, its scores, what it said exactly."""

import math
from collections.abc import Mapping
from html import escape

from lab.core.adapters import Adapter
from lab.core.problems import Problem
from lab.core.prompts import split_reasoning
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import GOAL
from lab.core.rewards.scoring import Scored
from lab.ui.widgets import counted, number, table_html

CSS = """
.strip { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 8px; font-size: 13px; }
.strip .badge { margin: 0; font-size: 13px; }
.strip .chip-score { padding: 1px 9px; border: 1px solid var(--border-color-primary);
  border-radius: 99px; color: var(--body-text-color-subdued); }
.strip .chip-score b { color: var(--body-text-color); margin-left: 3px; }
.strip .about { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.strip .who { font-weight: 700; }
tr.goal td:first-child { font-weight: 700; }
tr.shape td { color: var(--body-text-color-subdued); }
.table tfoot td { font-weight: 700; }
.help { margin: 8px 0; }
.exact summary { cursor: pointer; }
.exact pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 300px; overflow-y: auto;
  font-family: var(--font-mono); font-size: 13px; margin: 6px 0 0; padding: 10px 12px;
  background: var(--background-fill-secondary); border-radius: 6px; color: inherit; }"""


def strip_html(parts: list[str], about: list[str]) -> str:
    """One line above an answer."""
    told = f"<span class='about'>{escape(', '.join(about))}</span>" if about else ""
    return f"<div class='strip'>{''.join(parts)}{told}</div>"


def total_html(total: float | None) -> str:
    return f"<span class='chip-score'>Total <b>{number(total)}</b></span>"


def speed(tokens: int, rate: float | None, cut: bool) -> list[str]:
    """How long an answer is, how fast it came in tokens a second, and whether it was cut."""
    told = [counted(tokens, "token")] if tokens else []
    told += [f"{rate:.0f} tokens a second"] if rate else []
    return told + (["cut at the longest length"] if cut else [])


def scores_html(scored: Scored, chosen: tuple[Chosen, ...], columns: dict) -> str:
    """Each reward's raw score, its weight, and what it adds to the total: goals first."""
    rows = []
    ordered = sorted(chosen, key=lambda one: one.takes_as != GOAL)
    for one in ordered:
        raw = scored.rewards.get(one.name)
        missing = [c for c in one.reward.columns if c not in columns]
        if missing == ["answer"]:
            said = "needs a reference answer"
        elif missing:
            said = f"needs the column {missing[0]}"
        elif one.name in scored.errors:
            said = scored.errors[one.name]
        else:
            said = number(raw) if raw is not None else "not judged"
        rows.append((one.reward.label, one.takes_as, said, number(one.weight),
                     number(None if raw is None else raw * one.weight)))
    table = table_html(("Reward", "Kind", "Score", "Weight", "Counts"), rows, numbers=(2, 3, 4),
                       classes=[one.takes_as for one in ordered])
    total = ("<tfoot><tr><td>Total</td><td></td><td></td><td></td>"
             f"<td class='number total'>{number(scored.total)}</td></tr></tfoot>")
    return table.replace("</table>", f"{total}</table>")


def exact_html(text: str, rewards_of: str) -> str:
    """Below the scores: whose rewards they are, and the answer as it was."""
    return (f"<p class='help'>Scored with the rewards of {escape(rewards_of)}.</p>"
            "<details class='exact'><summary>Exact text</summary>"
            f"<pre tabindex='0'>{escape(text) or '(empty)'}</pre></details>")


def goal_told(scored: Scored, chosen: tuple[Chosen, ...]) -> tuple[str, str]:
    """(kind of badge, words): whether this answer is what was meant."""
    if not any(one.takes_as == GOAL for one in chosen):
        return "needs", "No goal reward: nothing says whether this is right"
    if scored.reached is None:
        return "needs", "Goal not judged"
    if scored.reached:
        return "fits", "Goal reached"
    part = f": {scored.goal:.0%} of its points" if scored.goal else ""
    return "missed", f"Goal not reached{part}"


def goal_html(scored: Scored, chosen: tuple[Chosen, ...]) -> str:
    """The same as a badge."""
    kind, said = goal_told(scored, chosen)
    return f"<p class='badge goal {kind}'>{said}</p>"


def adapter_told(effect: float | None, adapter: Adapter | None, over: bool,
                 flaw: Problem | None = None) -> tuple[str, str]:
    """(kind of badge, words): which weights answered, and the proof that they are at work.

    `effect` is the largest change of a logit. One that is no number comes of an adapter whose own
    numbers are finite, and too large for the model: what it says is noise.
    """
    if adapter is None:
        return "", "Base model, no adapter"
    if flaw is not None:
        return "missed", f"The adapter of {adapter.title} was not asked. {flaw.what} {flaw.why}"
    if effect is None:
        said = "was not checked" if over else "is being checked …"
        return "", f"Adapter of {adapter.title} {said}"
    if not math.isfinite(effect):
        return "missed", (f"The adapter of {adapter.title} breaks the model: its logits are not "
                          "finite (NaN), so the answer is noise")
    if effect > 0:
        return "fits", f"Adapter of {adapter.title} live: changes logits by up to {effect:.2g}"
    return "needs", (f"The adapter of {adapter.title} changes nothing: it answers just as the base "
                     "model does")


def adapter_html(effect: float | None, adapter: Adapter | None, over: bool,
                 flaw: Problem | None = None) -> str:
    """The same as a badge; tests and scripts read its data."""
    kind, said = adapter_told(effect, adapter, over, flaw)
    at = "" if adapter is None or adapter.step is None else adapter.step
    told = "" if effect is None else f"{effect:.6g}"
    return (f"<p class='badge adapter {kind}' data-step='{at}' data-effect='{told}'>"
            f"{escape(said)}</p>")


# --- the answer itself, as messages of gradio's chat ---


def former(opening: Mapping, turns: list[dict], side: int) -> list[dict]:
    """What was said before: the turns that the row of the first question has, and `turns`."""
    given = [dict(turn) for turn in opening["history"] if turn["role"] != "system"]
    return given + [bubble for turn in turns
                    for bubble in ({"role": "user", "content": turn["question"]},
                                   *bubbles(turn["answers"][side], True, None))]


def bubbles(text: str, done: bool, seconds: float | None) -> list[dict]:
    """An answer as chat messages: the reasoning, which stays open, and the answer in bold."""
    reasoning, rest = split_reasoning(text)
    made = []
    if reasoning is not None:
        over = done or closed(text)
        look: dict = {"title": "Reasoning"} | ({} if over else {"status": "pending"})
        if seconds is not None:
            look["duration"] = round(seconds, 1)
        made.append({"role": "assistant", "content": reasoning or "…", "metadata": look})
    if rest.strip():
        made.append({"role": "assistant", "content": bold_answers(rest)})
    if not made:
        made.append({"role": "assistant", "content": "(no words)" if done else "…"})
    return made


def bold_answers(text: str) -> str:
    """Every answer of one line in bold, its tags away."""
    before, *parts = text.split("<answer>")
    shown = [before]
    for part in parts:
        inside, ended, rest = part.partition("</answer>")
        inside = inside.strip()
        plain = ended and inside and "\n" not in inside
        shown.append(f"**{inside}**{rest}" if plain else f"<answer>{part}")
    return "".join(shown)


def closed(text: str) -> bool:
    """Whether the reasoning has come to its end."""
    return "</reasoning>" in text or "</think>" in text
