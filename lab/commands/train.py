"""`train`: start or resume a run and follow it to its end."""

import argparse
import contextlib
import sys
import time

from lab.commands import shown
from lab.commands.settings import add_rewards_file, add_settings, chosen_settings
from lab.commands.shown import DONE, FAILED, Line, complain, print_json, progress, summary, tell
from lab.core.problems import BadSettings, RunError
from lab.core.settings import Settings
from lab.services import machine
from lab.services.forecasts import forecast_of, in_words
from lab.services.lab import Lab
from lab.services.runs import PAUSED, Run


def add(command) -> None:
    sub = command("train", run, "Train, and follow it to its end. Ctrl-C stops after the step.")
    add_settings(sub)
    add_rewards_file(sub)
    sub.add_argument("--steps", type=int, metavar="N", help="short for --set train.max_steps=N")
    sub.add_argument("--name", default="", help="a name for the run")
    sub.add_argument("--resume", metavar="RUN", help="go on with this run")


def run(options: argparse.Namespace) -> int:
    lab = Lab.at(options.root, options.allow_code)
    if options.resume is not None:
        if not options.resume:
            raise BadSettings("--resume needs the id of a run.", "It was given an empty text.",
                              "`python -m lab runs` lists them.")
        if options.recipe or options.settings or options.set or options.rewards_file:
            raise BadSettings("A resumed run keeps its settings.", "Only --steps can be given "
                              "with --resume.", "To change more, start a new run.")
        folder = lab.jobs.resume(options.resume, options.steps)
    else:
        settings = chosen_settings(options)
        if options.steps is not None:
            settings = settings.with_values({"train.max_steps": options.steps})
        if not options.json:
            expect(lab, settings)
        folder = lab.jobs.start(settings, options.name,
                                say=lambda text: tell(options, f"{text} ..."))
    tell(options, f"Run {folder.id} in {folder.path}")
    ended = follow(lab, folder.id, quiet=options.json)
    if options.json:
        print_json({
            "run": ended.id, "folder": str(ended.folder.path), "status": ended.status,
            "steps": ended.step, "reward_first": ended.reward_first,
            "reward_last": ended.reward_last, "seconds": round(ended.seconds, 1)})
    else:
        print(summary(ended))
    if ended.status == "failed":
        return complain(RunError(ended.problem.what, ended.problem.why, ended.problem.next), FAILED)
    return DONE


def expect(lab: Lab, settings: Settings) -> None:
    """Say how long the run will take, where that can be told."""
    if told := forecast_of(settings, machine.look(lab.workspace.root), lab.workspace):
        print(in_words(told), file=sys.stderr)


def follow(lab: Lab, run_id: str, quiet: bool) -> Run:
    """Show a run's progress until its worker has ended; Ctrl-C asks it to stop, once."""
    line, told, asked, found, before = Line(quiet), 0, False, set(), ""
    while True:
        try:
            run, log = lab.runs.get(run_id), lab.runs.log(run_id)
            for notice in log.notices[told:]:
                line.say(f"{notice.level}: {notice.text}")
            told = len(log.notices)
            for finding in lab.doctor.report(run).findings:
                if finding.rule not in found:  # said once, when it is first seen
                    line.say(shown.told(finding))
                found.add(finding.rule)
            if run.status == PAUSED != before:
                line.say(f"Paused after step {run.step}, with everything in memory. Go on with: "
                         f"python -m lab pause {run_id} --go-on")
            before = run.status
            line.show(progress(run, log))
            if not run.is_active:
                return lab.jobs.wait(run_id)
            time.sleep(0.25)
        except KeyboardInterrupt:
            if asked:
                line.say("Still stopping: the step is not done yet. The run's folder keeps "
                         "everything.")
            else:
                line.say("Stopping after this step ...")
                _ask_to_stop(lab, run_id)
            asked = True


def _ask_to_stop(lab: Lab, run_id: str) -> None:
    with contextlib.suppress(RunError):  # it has just ended by itself
        lab.jobs.stop(run_id)
