"""The lab on cores that something else wants too: how threads wait, and how many of them answer.

    python -m tests.bench.busy quiet|compare|two [--variants spin passive] [--rounds 2] [--steps 25]

The variants take turns, so that what else runs on the machine slows all of them; read the ratios.
`spin` is OpenMP's own way, which the lab does not take.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from lab.core.catalog import RECIPES
from lab.core.settings import Sampling
from lab.services import chat, environment
from lab.services.chat import Side
from lab.services.lab import Lab
from tests.bench.lab_side import QUESTION

WARM = 2  # steps that are left out
SPIN, PASSIVE, ALL = "spin", "passive", "passive-all"  # all: as many threads answer as ever
WAITING = {SPIN: {}, PASSIVE: {"OMP_WAIT_POLICY": "PASSIVE"}, ALL: {"OMP_WAIT_POLICY": "PASSIVE"},
           "count-0": {"GOMP_SPINCOUNT": "0"}, "count-10000": {"GOMP_SPINCOUNT": "10000"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("quiet", "compare", "two"))
    parser.add_argument("--variants", nargs="+", choices=WAITING, default=[SPIN, PASSIVE])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--longest", type=float, default=40, help="seconds of one measurement")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.pop(name, None)
    own = chat.trains_now
    for turn in range(options.rounds):
        for variant in options.variants:
            environment.PATIENT.clear()
            environment.PATIENT.update(WAITING[variant])
            chat.trains_now = (lambda workspace: False) if variant in (SPIN, ALL) else own
            begun, before = time.monotonic(), spent()
            told = measured(options)
            mine, all_of_it = (now - then for now, then in zip(spent(), before, strict=True))
            told.append(f"others took {(all_of_it - mine) / (time.monotonic() - begun):.2f} cores")
            print(f"{options.what:8} round {turn + 1} {variant:12} " + "  ".join(told), flush=True)


def spent() -> tuple[float, float]:
    """Seconds of all cores, by what was started here and has ended, and by everything."""
    whole = psutil.cpu_times()
    return sum(os.times()[:4]), sum(whole) - whole.idle - getattr(whole, "iowait", 0.0)


def measured(options: argparse.Namespace) -> list[str]:
    settings = RECIPES["starter"].settings().with_values({
        "train.max_steps": options.steps, "train.save_steps": options.steps,
        "hardware.threads": options.threads})
    told = []
    with ExitStack() as stack:
        roots = [Path(stack.enter_context(tempfile.TemporaryDirectory()))
                 for _ in range(2 if options.what == "two" else 1)]
        labs = [Lab.at(root) for root in roots]
        begun = time.monotonic()
        runs = [(lab, lab.jobs.start(settings).id) for lab in labs]
        for lab, run in runs:
            stack.callback(lab.jobs.kill, run)  # before its folder goes, however this ends
        over, spoken = threading.Event(), []
        talking = threading.Thread(target=talk, args=(labs[0], settings, over, spoken))
        if options.what == "compare":
            talking.start()
        for lab, run in runs:
            with suppress(psutil.TimeoutExpired):
                lab.jobs.wait(run, max(0.0, begun + options.longest - time.monotonic()))
        for lab, run in runs:
            lab.jobs.kill(run)
            ended = lab.jobs.wait(run)
            steps = lab.runs.log(run).curves().get("seconds/step", [])[WARM:]
            told.append(f"{ended.step} steps in {ended.seconds:.1f} s, median "
                        f"{statistics.median(steps):.3f} s a step" if steps
                        else f"{ended.step} steps")
        over.set()
        if talking.is_alive():
            talking.join()
        if spoken:
            told.append(f"{statistics.median(spoken):.1f} tokens a second answered")
        labs[0].chat.close()
    return told


def talk(lab: Lab, settings, over: threading.Event, spoken: list[float]) -> None:
    """Two sides answer again and again, as Compare asks them; fills in tokens a second."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=96)
    seed = 0
    while not over.is_set():
        seed += 1
        begun, tokens = time.monotonic(), {}
        for update in lab.chat.stream(settings, [Side(QUESTION), Side(QUESTION)], sampling, seed,
                                      over):
            tokens[update.side] = update.tokens
        if seed > 1:  # the first one loads the model
            spoken.append(sum(tokens.values()) / (time.monotonic() - begun))


if __name__ == "__main__":
    main()
