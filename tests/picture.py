"""Draws what runs of several recipes learnt as one picture, from their events.

    python -m tests.picture OUT.png LABEL=EVENTS.jsonl [LABEL=EVENTS.jsonl ...]

Runs of one label are drawn in one colour. Left: answers right on questions that are not trained
on; in the middle: the reward they were trained on; right: tokens an answer; over the minutes of its
steps. Needs Chromium, as the browser tests do.
"""

import sys
from itertools import accumulate
from pathlib import Path

from plotly.subplots import make_subplots

from lab.services.run_log import RunLog
from tests.browser import chromium

COLOURS = ("#0f766e", "#c2410c", "#6d28d9", "#1d4ed8")
TITLES = ("Right, on questions not trained on", "Reward that was trained on", "Tokens an answer")
SMOOTH = 5  # steps of a running mean, for the two that are measured on each step's own questions


def main(arguments: list[str]) -> None:
    out, *named = arguments
    figure = make_subplots(1, 3, subplot_titles=TITLES, horizontal_spacing=0.06)
    colours: dict[str, str] = {}
    for one in named:
        label, _, path = one.partition("=")
        first = label not in colours
        colour = colours.setdefault(label, COLOURS[len(colours) % len(COLOURS)])
        log = RunLog(Path(path)).refresh()
        look = {"line": {"color": colour, "width": 2}, "legendgroup": label, "name": label}
        minutes = [0.0, *(seconds / 60 for seconds in accumulate(log.metrics["seconds/step"]))]
        at = dict(zip([0, *log.steps], minutes, strict=True))
        right = {at[step]: told.get("reached") for step, told in sorted(log.held_out.items())}
        figure.add_scatter(x=list(right), y=list(right.values()), mode="lines+markers",
                           showlegend=first, row=1, col=1, **look)
        for column, name in ((2, "reward/weighted"), (3, "completions/mean_length")):
            values = list(log.metrics.get(name, ()))
            figure.add_scatter(x=minutes[1:], y=smoothed(values), mode="lines",
                               showlegend=False, row=1, col=column, **look)
    figure.update_layout(template="plotly_white", width=1200, height=360, font={"size": 13},
                         margin={"l": 50, "r": 20, "t": 50, "b": 70},
                         legend={"orientation": "h", "y": -0.2})
    figure.update_xaxes(title_text="minutes of training")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", row=1, col=1)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1216, "height": 376}, device_scale_factor=2)
        page.set_content(figure.to_html(include_plotlyjs=True, config={"staticPlot": True}))
        page.wait_for_function("document.querySelector('.js-plotly-plot .main-svg')")
        page.locator(".js-plotly-plot").screenshot(path=out)


def smoothed(values: list[float]) -> list[float]:
    return [sum(part) / len(part) for i in range(len(values))
            if (part := values[max(0, i - SMOOTH + 1):i + 1])]


if __name__ == "__main__":
    main(sys.argv[1:])
