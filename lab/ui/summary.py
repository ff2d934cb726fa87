"""What Start will run, in a few lines: model, length, questions, rewards, and what was changed."""

from html import escape

from lab.core.catalog import RECIPES
from lab.core.hardware.forecast import Forecast
from lab.core.rewards.chosen import format_chosen
from lab.core.rewards.registry import GOAL, SHAPE
from lab.core.settings import ALL, Settings
from lab.core.words import data_named
from lab.services.forecasts import in_words
from lab.ui.widgets import counted, number

NO_GOAL = ("<b>No goal reward is chosen.</b> Shape rewards say how an answer is made, not whether "
           "it is right: the model can learn to please them without a thought. Add a goal under "
           "Rewards.")
SHAPED = "Shaped by"
LONG = 70  # characters of a value from which on it is only said to be changed


def summary_html(settings: Settings, recipe: str) -> str:
    """What Start will run, and where it differs from the recipe."""
    train = settings.train
    changes = RECIPES[recipe].settings().differences(settings) if recipe in RECIPES else {}
    cells = (
        ("Model", settings.model.name, f"LoRA rank {settings.lora.rank}"),
        ("Learns for", counted(train.max_steps, "step"),
         f"of {counted(train.prompts_per_step, 'question')} × {train.num_generations} answers"),
        ("From", *source_of(settings)),
        ("Rewarded for", *_rewards(settings, GOAL)), (SHAPED, *_rewards(settings, SHAPE)),
    )
    text = "".join(f"<div class='{'wide' if a == SHAPED else ''}'><dt>{a}</dt><dd>{escape(b)}"
                   f"<span>{escape(c)}</span></dd></div>" for a, b, c in cells if b)
    text = f"<dl>{text}</dl>"
    if not any(one.takes_as == GOAL for one in settings.rewards.chosen):
        text += f"<p class='no-goal'>{NO_GOAL}</p>"
    if changes:
        labels = {s.key: s.knob.label for s in ALL}
        shown = [f"<li>{escape(labels[key])}: {_change(was, now)}</li>"
                 for key, (was, now) in changes.items()]
        text += (f"<p>Changed from the recipe (press its card again to take it back):</p>"
                 f"<ul>{''.join(shown)}</ul>")
    return f"<div class='summary'>{text}</div>"


def forecast_html(told: Forecast | None) -> str:
    """How long it will take, where that can be told."""
    if told is None:
        return ""
    return f"<p class='derived'>{escape(in_words(told))}</p>"


def _rewards(settings: Settings, kind: str) -> tuple[str, str]:
    """(labels, weights) of the chosen rewards of one kind."""
    chosen = [one for one in settings.rewards.chosen if one.takes_as == kind]
    weights = ", ".join(number(one.weight) for one in chosen)
    return (", ".join(one.reward.label for one in chosen),
            f"weight{'' if len(chosen) == 1 else 's'} {weights}")


def source_of(settings: Settings) -> tuple[str, str]:
    data = settings.data
    rows = f"{data.rows:,} rows at most" if data.rows else "all rows"
    return data_named(data), rows


def _change(was: object, now: object) -> str:
    was, now = _plain(was), _plain(now)
    if max(len(was), len(now)) > LONG:
        return "<b>changed</b>"
    return f"<b>{escape(now)}</b> <span class='was'>instead of {escape(was)}</span>"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = (format_chosen(value) if value and not isinstance(value[0], str)
                 else ", ".join(value))
    return " ".join(str(value).split()) or "nothing"
