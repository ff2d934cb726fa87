"""`python -m lab`: the commands, made of the same parts as the app, and their exit statuses."""

import argparse
import sys
from pathlib import Path

from lab.commands import (
    data,
    doctor,
    evaluate,
    export,
    pause,
    preflight,
    rewards,
    runs,
    score,
    train,
    whatif,
)
from lab.commands.shown import DONE, FAILED, WRONG_USE, complain, reading_told
from lab.core.problems import BadData, BadSettings, LabError, explain

COMMANDS = (train, pause, data, score, rewards, preflight, evaluate, export, runs, doctor, whatif)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        with reading_told():
            return options.run(options)
    except BadSettings as error:
        return complain(error, WRONG_USE)
    except LabError as error:
        return complain(error, FAILED)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return DONE
    except (OSError, UnicodeError) as error:
        return complain(LabError(*_parts(error)), FAILED)
    except RecursionError:
        return complain(BadData("What was given is nested too deeply.", "Reading it takes more "
                                "levels than Python has.", "Give it with fewer levels."), FAILED)


def _parts(error: BaseException) -> tuple[str, str, str]:
    problem = explain(error)
    return problem.what, problem.why, problem.next


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--root", type=Path, metavar="DIR",
                         help="folder of the runs (default: $GRPO_LAB_HOME, else ./runs)")
        sub.add_argument("--json", action="store_true",
                         help="the last line of the output is one JSON object")
        sub.set_defaults(run=run)
        return sub

    for module in COMMANDS:
        module.add(command)
    return top
