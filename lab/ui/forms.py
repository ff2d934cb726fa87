"""The form: one widget for every setting, made from its Knob, and the way back to `Settings`.

Widgets are known by their setting's key ("train.beta"). The rewards are one setting and one widget,
which holds all cards as JSON; a field of a card is named "rewards.int.on", "rewards.int.weight",
"rewards.int.kind", "rewards.soft_format.multiline", ...
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from lab.core import knobs
from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.knobs import Knob
from lab.core.problems import BadSettings, Problem
from lab.core.rewards.chosen import WEIGHT, Chosen, format_chosen, parse_chosen
from lab.core.rewards.registry import GOAL, REWARDS, SHAPE, Reward
from lab.core.settings import ALL, GROUPS, Settings, problem_of, setting_named

REWARD_LIST = "rewards.chosen"  # the one setting that is shown as cards
OWN_FILE, OWN_LIST = "rewards.file", "rewards.own"  # of own ones: where they are, which are on
KIND = Knob("Counts as", "", choices=(GOAL, SHAPE))


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
        self.root: Path | None = None  # a page's file of own rewards lies in it, or is none

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

    def editor(self, template: str, script: str) -> gr.HTML:
        """The widget of the rewards: cards of HTML, whose value is `cards_text`."""
        self.widgets[REWARD_LIST] = gr.HTML(
            cards_text(self.first.rewards.chosen), html_template=template, js_on_load=script,
            apply_default_css=False, told="{}", elem_id="reward-editor")
        return self.widgets[REWARD_LIST]

    def _make(self, key: str, knob: Knob, kind: Any, value: Any, **look: Any) -> Component:
        if key in self.widgets:
            raise ValueError(f"{key} has a widget already.")
        shared = {"label": knob.label, "info": knob.help or None, "value": _shown(value),
                  "interactive": True, "elem_id": f"set-{key.replace('.', '-')}",
                  "min_width": 150}
        choices = look.pop("choices", knob.choices)
        if kind is bool:
            made = gr.Checkbox(**shared | look)
        elif knobs.is_list(kind) and knob.open:
            made = gr.Dropdown(list(choices), **_wide(shared) | {
                "multiselect": True, "allow_custom_value": True} | look)
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
        """Every value that cannot be, each with its key, or its field of a card, as `field`."""
        found = []
        for key, value in values.items():
            if key in (OWN_FILE, OWN_LIST):
                continue
            if key == REWARD_LIST:
                found += _problems_of_cards(value)
                continue
            setting = setting_named(key)
            if wrong := _wrong(value, setting.kind, setting.knob):
                found.append(Problem(f"'{setting.knob.label}' {wrong}.", field=key))
        if not any(p.field.startswith("rewards.") for p in found):
            try:
                wrong = problem_of(setting_named(REWARD_LIST), self.chosen(values))
            except ValueError as error:
                wrong = found.append(Problem(str(error), field=OWN_LIST))
            if wrong:
                sentence = wrong.removeprefix("cannot be used: ")
                found.append(Problem(f"{sentence}.", field=REWARD_LIST))
        return found

    def read(self, values: Mapping[str, Any]) -> Settings:
        """The settings that the widgets hold. Raises BadSettings, naming the first bad one;
        nothing is ever changed on the way."""
        for problem in self.problems(values):
            raise BadSettings(problem.what, problem.why, problem.next, problem.field)
        found = {key: value for key, value in values.items() if key not in (OWN_FILE, OWN_LIST)}
        return self.first.with_values(found | {OWN_FILE: self.own_file(values),
                                               REWARD_LIST: self.chosen(values)})

    def chosen(self, values: Mapping[str, Any]) -> tuple[Chosen, ...]:
        """The rewards that are switched on, as they stand; `problems` says whether they can be.
        Raises ValueError where the text of own ones cannot be read."""
        if REWARD_LIST not in values:
            return self.first.rewards.chosen
        own = values.get(OWN_LIST) or ""
        return (*(
            Chosen(name, card["weight"],
                   {key: card[key] for key, parameter in REWARDS[name].knobs.items()
                    if card[key] != parameter.default},
                   "" if card["kind"] == REWARDS[name].kind else card["kind"])
            for name, card in read_cards(values[REWARD_LIST]).items() if card["on"]),
            *(parse_chosen(own, self.own_file(values)) if own.strip() else ()))

    def own_file(self, values: Mapping[str, Any]) -> str:
        """The file of own rewards. A page may name none that is not the lab's own copy."""
        file = values.get(OWN_FILE) or ""
        inside = self.root is None or Path(file).is_relative_to(self.root)
        return file if inside and ".." not in Path(file).parts else ""

    def values(self, settings: Settings) -> dict[str, Any]:
        """What each widget holds when it shows these settings."""
        found = {s.key: _shown(settings.get(s.key)) for s in ALL if s.key in self.widgets}
        if OWN_LIST in self.widgets:
            found[OWN_LIST] = format_chosen(settings.rewards.own)
        return found | self._cards(settings.rewards.chosen)

    def _cards(self, chosen: Iterable[Chosen]) -> dict[str, Any]:
        return {REWARD_LIST: cards_text(chosen)} if REWARD_LIST in self.widgets else {}

    def show(self, settings: Settings) -> dict[Component, Any]:
        """Updates that put settings into the widgets: a recipe, a fork of a run, a draft."""
        return {self.widgets[key]: gr.update(value=value)
                for key, value in self.values(settings).items()}

    def show_rewards(self, chosen: Iterable[Chosen]) -> dict[Component, Any]:
        """Updates that put rewards of the lab into their cards, with none of one's own beside
        them, and leave all else as it is."""
        own = {OWN_LIST: ""} if OWN_LIST in self.widgets else {}
        return {self.widgets[key]: gr.update(value=value)
                for key, value in (self._cards(chosen) | own).items()}

    def mark(self, problems: Iterable[Problem]) -> dict[Component, Any]:
        """Updates of every widget's help: what is wrong with its value, or else what one should
        know of it, or else what it is. The cards of rewards have marks of their own.

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

        return {widget: marked(key, widget) for key, widget in self.widgets.items()
                if key != REWARD_LIST}


MARKS = {"error": "wrong-field", "warning": "doubtful-field"}  # class of a field, the worst first


def cards_text(chosen: Iterable[Chosen]) -> str:
    """The cards of these rewards as their widget holds them; all others are off."""
    return json.dumps({one.name: _card(REWARDS[one.name], one) for one in chosen
                       if one.name in REWARDS})


def read_cards(text: Any) -> dict[str, dict[str, Any]]:
    """{name: {part: value}} of every reward. Raises BadSettings for what no page of ours sends."""
    try:
        held = json.loads(text or "{}")
        return {name: _card(reward, None) | {
            part: value for part, value in held.get(name, {}).items()
            if part in _card(reward, None)} for name, reward in REWARDS.items()}
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadSettings("The rewards of the page cannot be read.", f"{error}.",
                          "Reload the page.", REWARD_LIST) from error


def _card(reward: Reward, chosen: Chosen | None) -> dict[str, Any]:
    own = {key: parameter.default for key, parameter in reward.knobs.items()}
    if chosen is None:
        return {"on": False, "weight": 1.0, "kind": reward.kind, **own}
    return {"on": True, "weight": chosen.weight, "kind": chosen.takes_as, **own,
            **dict(chosen.params)}


def _problems_of_cards(text: Any) -> list[Problem]:
    found = []
    for name, card in read_cards(text).items():
        looks = {"on": (Knob("Switch", ""), bool), "weight": (WEIGHT, float), "kind": (KIND, str),
                 **{key: (one.knob, one.kind) for key, one in REWARDS[name].knobs.items()}}
        for part, value in card.items():
            if part != "on" and not card["on"]:
                continue  # what is switched off may be unfinished
            knob, kind = looks[part]
            if wrong := _wrong(value, kind, knob):
                found.append(Problem(f"'{knob.label}' of '{REWARDS[name].label}' {wrong}.",
                                     field=f"rewards.{name}.{part}"))
    return found


def _wrong(value: Any, kind: Any, knob: Knob) -> str | None:
    if value is None:
        return "is empty" if kind is str or knobs.is_list(kind) else "needs a number"
    return knobs.problem_with(value, kind, knob)


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _wide(look: dict) -> dict:
    return look | {"elem_classes": "wide"}
