"""Writes what README.md derives from the code, between its markers: `python -m tests.docs`."""

import re

from lab.core import knobs
from lab.core.catalog import RECIPES
from lab.core.rewards.registry import REWARDS
from lab.core.settings import GROUPS
from lab.services.workspace import PROJECT

README = PROJECT / "README.md"


def settings_table() -> str:
    lines = ["| setting | default | allowed | what |", "|---|---|---|---|"]
    for members in GROUPS.values():
        for s in members:
            if s.key == "rewards.chosen":
                default, allowed = "all five", "see Rewards"
            else:
                default = _default(s.default)
                allowed = _allowed(s)
            lines.append(f"| `{s.key}` | {default} | {allowed} | {_plain(s.knob.help)} |")
    return "\n".join(lines)


def rewards_table() -> str:
    lines = ["| reward | at most | what |", "|---|---|---|"]
    lines += [f"| `{r.name}` | {knobs.plain(r.max_score)} | {_plain(r.help)} |"
              for r in REWARDS.values()]
    return "\n".join(lines)


def recipes_table() -> str:
    lines = ["| recipe | what | needs |", "|---|---|---|"]
    lines += [f"| `{r.key}` | {r.title}. {_plain(r.summary)} | "
              f"{'a GPU' if r.needs_gpu else 'a CPU'} |" for r in RECIPES.values()]
    return "\n".join(lines)


TABLES = {"settings": settings_table, "rewards": rewards_table, "recipes": recipes_table}


def filled(text: str) -> str:
    """The text with every table between `<!-- name -->` and `<!-- /name -->` written anew."""
    for name, table in TABLES.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
                      lambda found, table=table: f"{found[1]}{table()}\n{found[2]}", text,
                      flags=re.DOTALL)
    return text


def _default(value) -> str:
    if isinstance(value, tuple):
        return "all seven"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return knobs.plain(value)
    if "\n" in value:
        return "the classic notebook's"
    return f"`{value}`" if value else "empty"


def _allowed(setting) -> str:
    look = setting.knob
    if setting.kind is bool:
        return "on, off"
    if look.choices:
        return ", ".join(f"`{choice}`" for choice in look.choices)
    if setting.kind is str:
        return "text"
    low = f"above {knobs.plain(look.above)}" if look.above is not None else knobs.plain(look.low)
    return f"{low} to {knobs.plain(look.high)}"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
