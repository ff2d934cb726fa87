"""The form: one widget for every setting, made from its Knob, and the way back to `Settings`.

Widgets are known by their setting's key ("train.beta"). The rewards, one setting, have several
widgets each: "rewards.int.on", "rewards.int.weight", "rewards.soft_format.multiline", ...
"""

import html
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from lab.core import knobs
from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.knobs import Knob
from lab.core.problems import BadSettings, Problem
from lab.core.rewards.registry import REWARDS, WEIGHT, Chosen, Reward
from lab.core.settings import ALL, GROUPS, Settings, problem_of, setting_named

REWARD_LIST = "rewards.chosen"  # the one setting that is shown as cards


class Form:
    """The widgets of one page. Tabs create them where they belong, each once.

    A handler takes them by name and reads them back:

        def start(name, **values):
            settings = form.read(values)

        button.click(start, [name], outputs, inputs_kwargs=form.inputs())

    An event that puts values into the widgets must be listed in `shown_by`, so that problems,
    summaries and the draft follow:

        form.shown_by.append(fork.click(lambda run: form.show(run.settings), ..., form.outputs()))
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.first = settings or RECIPES[DEFAULT_RECIPE].settings()
        self.widgets: dict[str, Component] = {}
        self.shown_by: list[Dependency] = []  # events of tabs that put values into the widgets
        self.looks: dict[str, tuple[Knob, Any]] = {}  # the knob and the type of each widget

    # making widgets

    def widget(self, key: str, **look: Any) -> Component:
        """The widget of one setting, inside the current layout. `look` overrides its arguments;
        with `choices` it becomes a drop-down."""
        setting = setting_named(key)
        return self._make(key, setting.knob, setting.kind, self.first.get(key), **look)

    def group(self, group: str, keys: Iterable[str] | None = None,
              without: Iterable[str] = (), advanced: bool = True) -> None:
        """The widgets of a group (or of some `keys` of it) that do not exist yet, in order.

        The advanced ones go into an Accordion, or are left for later with `advanced=False`.
        """
        wanted = [s for s in GROUPS[group] if s.key != REWARD_LIST and s.key not in self.widgets
                  and s.key not in without and (keys is None or s.key in keys)]
        plain = [s for s in wanted if not s.knob.advanced]
        folded = [s for s in wanted if s.knob.advanced]
        if plain:
            with gr.Row(elem_classes="fields"):
                for setting in plain:
                    self.widget(setting.key)
        if folded and advanced:
            with (gr.Accordion("Advanced", open=False, elem_id=f"advanced-{group}"),
                  gr.Row(elem_classes="fields")):
                for setting in folded:
                    self.widget(setting.key)

    def rewards(self) -> None:
        """A card for every reward: switch, weight, its own knobs and what it does."""
        chosen = {one.name: one for one in self.first.rewards.chosen}
        with gr.Row(elem_classes="cards"):
            for reward in REWARDS.values():
                self._card(reward, chosen.get(reward.name))

    def _card(self, reward: Reward, chosen: Chosen | None) -> None:
        values = _card_values(reward, chosen)
        with gr.Column(elem_id=f"reward-{reward.name}", elem_classes="card reward", min_width=260):
            self._make(f"rewards.{reward.name}.on",
                       Knob(reward.label, ""), bool, values.pop("on"), elem_classes="switch")
            gr.HTML(f"<p class='help'>{html.escape(reward.help)}</p>"
                    f"<p class='facts'><code>{html.escape(reward.name)}</code> "
                    f"scores at most <b>{knobs.plain(reward.max_score)}</b></p>")
            self._make(f"rewards.{reward.name}.weight", replace(WEIGHT, help=""), float,
                       values.pop("weight"))
            for name, parameter in reward.knobs.items():
                self._make(f"rewards.{reward.name}.{name}", parameter.knob, parameter.kind,
                           values[name])

    def _make(self, key: str, knob: Knob, kind: Any, value: Any, **look: Any) -> Component:
        if key in self.widgets:
            raise ValueError(f"{key} has a widget already.")
        shared = {"label": knob.label, "info": knob.help or None, "value": _shown(value),
                  "interactive": True, "elem_id": f"set-{key.replace('.', '-')}",
                  "min_width": 150}
        choices = look.pop("choices", knob.choices)
        if kind is bool:
            made = gr.Checkbox(**shared | look)
        elif knobs.is_list(kind):
            made = gr.CheckboxGroup(list(choices), **_wide(shared) | look)
        elif choices is not None:
            made = gr.Dropdown(list(choices), **shared | look)
        elif kind is str:
            if knob.lines > 1:
                shared = _wide(shared) | {"lines": knob.lines, "max_lines": 3 * knob.lines}
            made = gr.Textbox(**shared | look)
        else:
            # No minimum and maximum: gradio would answer with a toast that does not say which
            # field it means. `problems` says it, and `mark` shows it at the field.
            made = gr.Number(**shared | {"step": knob.step or "any"} | look)
        self.widgets[key] = made
        self.looks[key] = knob, kind
        return made

    # from widgets to settings and back

    def inputs(self, group: str = "") -> dict[str, Component]:
        """All widgets by key, or those of one group, for `inputs_kwargs=`."""
        return {key: made for key, made in self.widgets.items() if key.startswith(group)}

    def outputs(self) -> list[Component]:
        return list(self.widgets.values())

    def problems(self, values: Mapping[str, Any]) -> list[Problem]:
        """Every value that cannot be, each with its widget's key as `field`."""
        found = []
        for key, value in values.items():
            if key.startswith("rewards."):
                _, name, part = key.split(".")
                if part != "on" and not values[f"rewards.{name}.on"]:
                    continue  # what is switched off may be unfinished
                knob, kind = self.looks[key]
                wrong = _wrong(value, kind, knob)
                label = f"{knob.label}' of '{REWARDS[name].label}"
            else:
                setting = setting_named(key)
                wrong = _wrong(value, setting.kind, setting.knob)
                label = setting.knob.label
            if wrong:
                found.append(Problem(f"'{label}' {wrong}.", field=key))
        if not any(p.field.startswith("rewards.") for p in found):
            wrong = problem_of(setting_named(REWARD_LIST), self.chosen(values))
            if wrong:
                sentence = wrong.removeprefix("cannot be used: ")
                found.append(Problem(f"{sentence}.", field=REWARD_LIST))
        return found

    def read(self, values: Mapping[str, Any]) -> Settings:
        """The settings that the widgets hold. Raises BadSettings, naming the first bad one;
        nothing is ever changed on the way."""
        for problem in self.problems(values):
            raise BadSettings(problem.what, problem.why, problem.next, problem.field)
        found = {key: value for key, value in values.items() if not key.startswith("rewards.")}
        return self.first.with_values(found | {REWARD_LIST: self.chosen(values)})

    def chosen(self, values: Mapping[str, Any]) -> tuple[Chosen, ...]:
        """The rewards that are switched on, as they stand; `problems` says whether they can be."""
        if not any(key.startswith("rewards.") for key in values):
            return self.first.rewards.chosen
        return tuple(
            Chosen(name, values[f"rewards.{name}.weight"],
                   {key: value for key, parameter in reward.knobs.items()
                    if (value := values[f"rewards.{name}.{key}"]) != parameter.default})
            for name, reward in REWARDS.items() if values[f"rewards.{name}.on"])

    def values(self, settings: Settings) -> dict[str, Any]:
        """What each widget holds when it shows these settings."""
        found = {s.key: _shown(settings.get(s.key)) for s in ALL if s.key in self.widgets}
        chosen = {one.name: one for one in settings.rewards.chosen}
        for name, reward in REWARDS.items():
            for part, value in _card_values(reward, chosen.get(name)).items():
                if (key := f"rewards.{name}.{part}") in self.widgets:
                    found[key] = value
        return found

    def show(self, settings: Settings) -> dict[Component, Any]:
        """Updates that put settings into the widgets: a recipe, a fork of a run, a draft."""
        return {self.widgets[key]: gr.update(value=value)
                for key, value in self.values(settings).items()}

    def mark(self, problems: Iterable[Problem]) -> dict[Component, Any]:
        """Updates of every widget's help: what is wrong with its value, or else what one should
        know of it, or else what it is.

        All of them each time: what a page shows now is not known here, and two changes in quick
        succession would otherwise leave a mark behind.
        """
        said: dict[str, dict[str, list[str]]] = {level: {} for level in MARKS}
        for problem in problems:
            said[problem.level].setdefault(problem.field, []).append(str(problem))

        def marked(key: str, widget: Component) -> Any:
            level = next((level for level in MARKS if key in said[level]), None)
            return gr.update(
                info=(" ".join(said[level][key]) if level else self.looks[key][0].help) or None,
                elem_classes=[*widget.elem_classes, *([MARKS[level]] if level else [])])

        return {widget: marked(key, widget) for key, widget in self.widgets.items()}


MARKS = {"error": "wrong-field", "warning": "doubtful-field"}  # class of a field, the worst first


def _card_values(reward: Reward, chosen: Chosen | None) -> dict[str, Any]:
    own = {key: parameter.default for key, parameter in reward.knobs.items()}
    if chosen is None:
        return {"on": False, "weight": 1.0, **own}
    return {"on": True, "weight": chosen.weight, **own, **dict(chosen.params)}


def _wrong(value: Any, kind: Any, knob: Knob) -> str | None:
    if value is None:
        return "is empty" if kind is str or knobs.is_list(kind) else "needs a number"
    return knobs.problem_with(value, kind, knob)


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _wide(look: dict) -> dict:
    return look | {"elem_classes": "wide"}
