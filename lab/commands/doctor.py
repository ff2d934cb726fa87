"""`doctor`: what this machine can do and what is wrong with it, or the health of a run."""

import argparse
import sys
from dataclasses import asdict

from lab.commands.shown import DONE, FAILED, print_json, summary, told
from lab.core.catalog import RECIPES
from lab.core.hardware import health
from lab.core.hardware.engines import CAPABILITY, DRIVER, choose_engines, choose_stack
from lab.core.problems import RunError
from lab.services import machine
from lab.services.lab import Lab


def add(command) -> None:
    sub = command("doctor", run, "Check this machine, or look at the health of a run.")
    sub.add_argument("which", metavar="RUN", nargs="?")


def run(options: argparse.Namespace) -> int:
    lab = Lab.at(options.root)
    if options.which is not None:
        return of_run(options, lab)
    facts = machine.look(lab.workspace.root)
    stack = choose_stack("auto", facts)
    ladder = choose_engines(RECIPES["gsm8k"].settings(), facts)  # as for any run with vLLM
    problems = health.machine_problems(facts, machine.pins(facts.packages))
    try:
        lab.workspace.make()
    except RunError as error:
        problems.insert(0, error.problem)
    missing = [name for name in health.NEEDED if name not in facts.packages]
    if options.json:
        print_json({**asdict(facts), "stack": asdict(stack), "engines": asdict(ladder),
                    "missing": missing, "problems": [p.to_dict() for p in problems]})
    else:
        gpus = [("GPU", health.gpu_line(gpu)) for gpu in facts.gpus] or [
            ("GPU", f"none; the gpu stack needs driver {DRIVER} or newer and compute capability "
             f"{CAPABILITY} or newer")]
        for label, text in (
                ("Stack", f"{stack.value}, because {stack.why}"), *health.engine_lines(ladder),
                *gpus, ("Machine", f"{facts.system}, Python {facts.python}, {facts.cores} cores"),
                ("Memory", f"{facts.free_memory_gb} of {facts.memory_gb} GB free"),
                ("Disk", f"{facts.free_disk_gb} GB free for {lab.workspace.root}"),
                ("Packages", ", ".join(f"{n} {v}" for n, v in facts.packages.items()))):
            print(f"{label.lower():9} {text}")
    for problem in problems:
        print(f"{problem.level}: {problem}", file=sys.stderr)
    return FAILED if any(problem.level == "error" for problem in problems) else DONE


def of_run(options: argparse.Namespace, lab: Lab) -> int:
    """Status, notices and what the doctor sees."""
    one, log = lab.runs.get(options.which), lab.runs.log(options.which)
    report = lab.doctor.report(one)
    notices = [asdict(notice) for notice in log.notices]
    if options.json:
        print_json({**one.to_dict(), "notices": notices, "damaged_lines": log.damaged,
                    **report.to_dict()})
    else:
        print(summary(one))
        for notice in log.notices:
            print(f"{notice.level}: {notice.text}")
        if log.damaged:
            print(f"warning: {log.damaged} damaged lines of events.jsonl were left out.")
        print(f"{report.verdict}: {report.why}")
        for finding in report.findings:
            print(told(finding, whole=True))
        if one.problem:
            print(f"problem: {one.problem}")
    return FAILED if one.status in ("failed", "damaged") else DONE
