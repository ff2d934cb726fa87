"""Writes what the documents derive from the code, between markers: `python -m tests.docs`."""

import re

from lab.core import knobs
from lab.core.catalog import RECIPES
from lab.core.insight.doctor import ORDER, RULES
from lab.core.rewards.registry import REWARDS
from lab.core.settings import GROUPS
from lab.services.workspace import PROJECT

README = PROJECT / "README.md"
LONGEST = 100  # characters of an example; longer ones are cut


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
    """Each reward in a line: what it is, and the first sentence of its help."""
    lines = ["| reward | kind | at most | what |", "|---|---|---|---|"]
    lines += [f"| `{r.name}` | {r.kind} | {knobs.plain(r.max_score)} | "
              f"{_plain(re.split(r'(?<=[.]) (?=[A-Z])', r.help)[0])} |" for r in REWARDS.values()]
    return "\n".join(lines)


def every_reward() -> str:
    """Each reward with all of its help, its parameters and its examples."""
    parts = []
    for r in REWARDS.values():
        parts += [f"### `{r.name}`: {r.label}",
                  f"A {r.kind}, at most {knobs.plain(r.max_score)}.{_asks_for(r)} {_plain(r.help)}"]
        if r.knobs:
            parts.append("\n".join(
                f"- `{name}` ({_default(p.default)}): {_plain(p.knob.help)}"
                for name, p in r.knobs.items()))
        if not r.examples:
            continue
        lines = ["| answer | row | score |", "|---|---|---|"]
        for completion, columns, score in r.examples:
            row = "<br>".join(f"{name}: {_code(str(v))}" for name, v in columns.items())
            score = "none" if score is None else knobs.plain(round(score, 4))
            lines.append(f"| {_code(completion)} | {row} | {score} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _asks_for(r) -> str:
    told = f" Needs {', '.join(f'`{c}`' for c in r.columns)}." if r.columns else ""
    if helpful := [name for name in r.fallbacks if name not in r.columns]:
        told += f" Takes {', '.join(f'`{c}`' for c in helpful)} where it is there."
    return told + (f" Needs the package `{r.package}`." if r.package else "")


def _code(text: str) -> str:
    """A text as code in a cell of a table, on one line."""
    if not text:
        return "(empty)"
    text = text.replace("\n", "\u23ce")
    text = text if len(text) <= LONGEST else f"{text[:LONGEST - 1]}\u2026"
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text or text != text.strip() else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|")


def recipes_table() -> str:
    lines = ["| recipe | what | needs |", "|---|---|---|"]
    for r in RECIPES.values():
        told = " ".join(_plain(part) for part in (f"{r.title}.", r.summary, r.measured) if part)
        lines.append(f"| `{r.key}` | {told} | {'a GPU' if r.needs_gpu else 'a CPU'} |")
    return "\n".join(lines)


def rules_table() -> str:
    lines = ["| rule | what it means | fires | where the threshold comes from |",
             "|---|---|---|---|"]
    lines += [f"| `{name}` | {_plain(RULES[name].means)} | {_plain(RULES[name].fires)} | "
              f"{_plain(RULES[name].source)} |" for name in ORDER]
    return "\n".join(lines)


TABLES = {"recipes": recipes_table}
OF_SETTINGS = {"settings": settings_table}
OF_DOCTOR = {"rules": rules_table}
OF_REWARDS = {"rewards": rewards_table, "every reward": every_reward}
PAGES = {README: TABLES, PROJECT / "docs" / "settings.md": OF_SETTINGS,
         PROJECT / "docs" / "doctor.md": OF_DOCTOR,
         PROJECT / "docs" / "rewards.md": OF_REWARDS}  # what each of them derives


def filled(text: str) -> str:
    """The text with every table between `<!-- name -->` and `<!-- /name -->` written anew."""
    for name, table in {k: v for page in PAGES.values() for k, v in page.items()}.items():
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
        more = ", or others" if look.open else ""
        return ", ".join(f"`{choice}`" for choice in look.choices) + more
    if setting.kind is str:
        return "text"
    low = f"above {knobs.plain(look.above)}" if look.above is not None else knobs.plain(look.low)
    return f"{low} to {knobs.plain(look.high)}"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
