"""`pause`: let a run that trains wait between two steps, go on, or give its memory back."""

import argparse

from lab.commands.shown import DONE, print_json
from lab.services.lab import Lab


def add(command) -> None:
    sub = command("pause", run, "Let a run wait after its step, with everything in memory. It can "
                  "go on at once, or be stopped.")
    sub.add_argument("which", metavar="RUN")
    does = sub.add_mutually_exclusive_group()
    does.add_argument("--go-on", action="store_true", help="end the pause")
    does.add_argument("--release", action="store_true", help="give the memory back (that of the "
                      "GPU, where it has one): stop after the step, saved, to be resumed later")


def run(options: argparse.Namespace) -> int:
    lab, run_id = Lab.at(options.root), options.which
    if options.go_on:
        lab.jobs.go_on(run_id)
        said = f"Run {run_id} goes on."
    elif options.release:
        lab.jobs.stop(run_id)
        said = (f"Run {run_id} stops after this step and is saved. Go on with: python -m lab train "
                f"--resume {run_id}")
    else:
        lab.jobs.pause(run_id)
        said = (f"Run {run_id} waits after this step, with everything in memory. Go on with: "
                f"python -m lab pause {run_id} --go-on")
    if options.json:
        one = lab.runs.get(run_id)
        print_json({"run": one.id, "status": one.status, "step": one.step})
    else:
        print(said)
    return DONE
