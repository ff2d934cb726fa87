"""`make bench` on a CPU: the lab beside a plain TRL script, start-up times, and memory, in one run.

    python -m tests.bench.cpu [--steps 40] [--rounds 2]

Plain TRL and the lab take turns, so that a busy machine slows both; read the ratios, each beside
its goal. Plain TRL has the environment of whoever starts it: what the lab tells the allocator of
its workers is the lab's.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lab.core import events
from lab.core.catalog import RECIPES
from lab.services.environment import worker_environment
from lab.services.lab import Lab
from lab.services.workers import worker_of
from lab.services.workspace import PROJECT
from tests.bench.measure import first_point
from tests.browser import App, chromium, open_tab

WARM = 3  # steps that are left out of the medians
END = 10  # steps that tell where a run has come to
# Parts of a step, and what the lab's may be of plain TRL's on 2 cores.
GOALS = {"step": 0.45, "generation": 0.42, "reward": None, "update": 0.45}
APART = 0.1  # how far the rewards at the end may be apart: more is another learning
LOOK_EVERY = 0.2  # seconds between two looks at a process's memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        speed(Path(root), options.steps, options.rounds)
        start_up(Path(root))
        memory(Path(root) / "long")


def speed(root: Path, steps: int, rounds: int) -> None:
    """Seconds per step and its parts, plain TRL against the lab, alternating."""
    lab = Lab.at(root / "speed")
    settings = RECIPES["starter"].settings().with_values({
        "train.max_steps": steps, "train.save_steps": steps})
    runs: dict[str, list[list[dict]]] = {"plain": [], "lab": []}
    peaks: dict[str, list[float]] = {"plain": [], "lab": []}
    for _ in range(rounds):
        folder = lab.jobs.start(settings)
        peaks["lab"].append(peak_of(worker_of(folder)))
        lab.jobs.wait(folder.id)
        runs["lab"].append(steps_of(lab, folder.id)[WARM:])
        with (root / "plain.log").open("w+", encoding="utf-8") as told:  # a pipe would fill up
            script = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.plain_trl", str(folder.path)], cwd=PROJECT,
                env=worker_environment(), stdout=told, stderr=subprocess.DEVNULL)
            peaks["plain"].append(peak_of(psutil.Process(script.pid)))
            script.wait()
            told.seek(0)
            runs["plain"].append(json.loads(told.read().strip().splitlines()[-1])["steps"][WARM:])
    print(f"\n{rounds} x {steps} steps of the starter recipe, medians in seconds")
    print(f"{'':12}{'plain TRL':>12}{'lab':>12}{'lab / plain':>14}{'goal':>10}")
    for part, goal in GOALS.items():
        plain, ours = (statistics.median(s[part] for run in runs[side] for s in run)
                       for side in ("plain", "lab"))
        ratio = ours / plain
        print(f"{part:12}{plain:12.3f}{ours:12.3f}{ratio:14.2f}{verdict(ratio, goal)}")
    plain, ours = (max(peaks[side]) for side in ("plain", "lab"))
    print(f"{'memory, GB':12}{plain:12.2f}{ours:12.2f}{ours / plain:14.2f}")
    print("means, learning being equal")
    for label, name, part, goal in (("tokens", "tokens", slice(None), None),
                                    ("reward", "reward_value", slice(None), None),
                                    ("reward, end", "reward_value", slice(-END, None), APART)):
        plain, ours = (statistics.fmean(s[name] for run in runs[side] for s in run[part])
                       for side in ("plain", "lab"))
        print(f"{label:12}{plain:12.2f}{ours:12.2f}{ours - plain:+14.2f}"
              f"{verdict(abs(ours - plain), goal)}")


def verdict(value: float, goal: float | None) -> str:
    """The end of a line: a goal, and whether it is met."""
    return "" if goal is None else f"   <= {goal:.2f} {'met' if value <= goal else 'missed'}"


def peak_of(process: psutil.Process | None) -> float:
    """Wait for a process to end: the most resident memory that it had, in GB. Linux only: 0 else.
    """
    peak = 0
    while process is not None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            break
        found = re.search(r"VmHWM:\s+(\d+) kB", status)  # a process that has ended has none
        if found is None:
            break
        peak = int(found[1])
        time.sleep(LOOK_EVERY)  # the kernel tells of no growth, it is asked
    return peak * 1024 / 1e9


def steps_of(lab: Lab, run_id: str) -> list[dict]:
    columns = lab.runs.log(run_id).curves()
    names = {"step": "seconds/step", "generation": "seconds/generation",
             "reward": "seconds/reward", "update": "seconds/update",
             "reward_value": "reward/weighted", "tokens": "completions/mean_length"}
    return [dict(zip(names, values, strict=True))
            for values in zip(*(columns[n] for n in names.values()), strict=True)]


def start_up(root: Path) -> None:
    """Seconds from `python app.py` to a served page, and from Start to the first reward."""
    begun = time.perf_counter()
    app = App(root / "start").start()
    print(f"\npython app.py to a served page   {time.perf_counter() - begun:6.1f} s")
    app.end()
    seconds = first_point(Lab.at(root / "start"), RECIPES["starter"].settings().with_values(
        {"train.max_steps": 2}))
    print(f"Start to the first reward point  {seconds:6.1f} s")


def memory(root: Path, points: int = 10_000) -> None:
    """Resident memory of the app, idle and after a page has read a long run."""
    lab = Lab.at(root)
    lab.workspace.make()
    folder = lab.jobs.start(RECIPES["starter"].settings().with_values({"train.max_steps": 1}))
    lab.jobs.wait(folder.id)
    log = lab.runs.log(folder.id)
    metrics = {name: column[-1] for name, column in log.curves().items() if column}
    groups = log.groups_at()[1]
    say = events.EventWriter(folder.events)
    for step in range(2, points + 1):
        say(events.Step(step, {name: value + step * 1e-4 for name, value in metrics.items()}))
        say(events.Samples(step, groups))
    say.close()
    app = App(root).start()
    idle = psutil.Process(app.process.pid).memory_info().rss
    begun = time.perf_counter()
    read_run(app.url)
    full = psutil.Process(app.process.pid).memory_info().rss
    print(f"\nevents.jsonl of {points} steps {folder.events.stat().st_size / 1e6:.0f} MB\n"
          f"app idle {idle / 1e6:.0f} MB, with that run open {full / 1e6:.0f} MB "
          f"(shown in a browser after {time.perf_counter() - begun:.1f} s)")
    app.end()


def read_run(url: str) -> None:
    """What a page does to show a run."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        open_tab(page, "Train")
        page.wait_for_function(
            "document.querySelector('#live-charts .js-plotly-plot')"
            "?.data?.[0]?.x?.length > 1000", timeout=120_000)


if __name__ == "__main__":
    main()
