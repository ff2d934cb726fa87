"""The curves of a run as pictures: SVG written here, for no browser is at hand to draw them."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lab.services.export.source import Source
from lab.services.runs import Runs
from lab.services.workspace import Workspace

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 40
LINE, LETTER = 18, 8  # of the legend: the height of a row, the width of a letter
POINTS = 400  # of a line, at most
COLOURS = ("#1f7a4d", "#c2571a", "#3d6fb5", "#7c4fa3", "#8a6d00", "#b03060", "#4b5563")

Line = tuple[str, Sequence[float], Sequence[float], bool]  # name, x, y, drawn thick with dots


def pictures_of(source: Source) -> list[tuple[str, str, str]]:
    """(what it shows, file name, SVG) of each picture there are points for, up to its step."""
    log = Runs(Workspace(source.folder.path.parent)).log(source.folder.id)
    _, steps, columns = log.columns()
    last = math.inf if source.step is None else source.step

    def line(name: str, label: str) -> Line:
        found = [(x, y) for x, y in zip(steps, columns.get(name, ()), strict=False)
                 if x <= last and not math.isnan(y)]
        return (label, [x for x, _ in found], [y for _, y in found], False)

    held = [(x, y) for x, y in source.judged.curve if x <= last]
    goal = [("held out", [x for x, _ in held], [y for _, y in held], True),
            line("goal/reached", "in training")]
    made = [("The goal: share of answers that are right", "goal.svg", goal, (0.0, 1.0)),
            ("Mean weighted reward in training", "reward.svg",
             [line("reward/weighted", "weighted reward")], None)]
    if source.run.settings is not None:
        made.append(("Each reward in training, before its weight", "rewards.svg", [
            line(f"rewards/{one.name}/mean", f"{one.name} ({one.takes_as})")
            for one in source.run.settings.rewards.chosen], None))
    made.append(("Tokens an answer", "length.svg",
                 [line("completions/mean_length", "tokens")], None))
    return [(title, file, chart(title, drawn, span)) for title, file, lines, span in made
            if (drawn := [one for one in lines if one[1]])]


def write_pictures(source: Source, folder: Path) -> list[tuple[str, str]]:
    """Write them; (what it shows, file name) of each."""
    made = pictures_of(source)
    for _, file, drawn in made:
        (folder / file).write_text(drawn, encoding="utf-8")
    return [(title, file) for title, file, _ in made]


def chart(title: str, lines: Sequence[Line], span: tuple[float, float] | None = None) -> str:
    """One chart as SVG: lines over steps, with axes and a legend. `span` fixes the y axis."""
    ys = [y for _, _, values, _ in lines for y in values]
    low, high = span or (min(ys), max(ys))
    legend = placed([name for name, *_ in lines])
    top = TOP + LINE * legend[-1][1]
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    first, last = min(x[0] for _, x, _, _ in lines), max(x[-1] for _, x, _, _ in lines)
    wide = max(last - first, 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return (LEFT + (x - first) / wide * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - top - BOTTOM))

    parts = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' "
             "font-family='sans-serif' font-size='12' role='img'>",
             f"<title>{escape(title)}</title>",
             f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#ffffff'/>"]
    for value in ticks(low, high):
        _, y = at(first, value)
        parts += [f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' "
                  "stroke='#e5e7eb'/>",
                  f"<text x='{LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' fill='#4b5563'>"
                  f"{value:g}</text>"]
    for value in ticks(first, last):
        if value == int(value):
            x, _ = at(value, low)
            parts.append(f"<text x='{x:.1f}' y='{HEIGHT - BOTTOM + 18}' text-anchor='middle' "
                         f"fill='#4b5563'>{int(value)}</text>")
    parts.append(f"<text x='{WIDTH - RIGHT}' y='{HEIGHT - 6}' text-anchor='end' "
                 "fill='#4b5563'>step</text>")
    for place, (name, xs, values, marked) in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        dots = [at(x, y) for x, y in thinned(xs, values)]
        parts.append(f"<polyline fill='none' stroke='{colour}' stroke-width='{3 if marked else 2}' "
                     f"points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in dots)}'/>")
        if marked or len(dots) == 1:
            parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>"
                      for x, y in dots]
        across, row = legend[place]
        parts.append(f"<text x='{across}' y='{20 + LINE * row}' fill='{colour}' "
                     f"font-weight='bold'>{escape(name)}</text>")
    return "".join([*parts, "</svg>\n"])


def placed(names: Sequence[str]) -> list[tuple[int, int]]:
    """(x, row) of each entry of the legend: it goes on in the next row where one is full."""
    found, across, row = [], LEFT, 0
    for name in names:
        wide = LETTER * len(name) + 24
        if across > LEFT and across + wide > WIDTH:
            across, row = LEFT, row + 1
        found.append((across, row))
        across += wide
    return found


def thinned(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """At most POINTS points: means of neighbours, the last one kept whole."""
    size = max(1, math.ceil(len(xs) / POINTS))
    return [(xs[min(i + size, len(xs)) - 1], sum(ys[i:i + size]) / len(ys[i:i + size]))
            for i in range(0, len(xs), size)]


def ticks(low: float, high: float) -> list[float]:
    """About five round values between two."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / 4))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (f * step) <= 5.01)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
