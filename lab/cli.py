"""The commands train, score, eval, export, runs and doctor, made of the same parts as the app."""

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from lab.core import diagnosis, health
from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.engines import CAPABILITY, DRIVER, choose_engines, choose_stack
from lab.core.problems import BadData, BadSettings, LabError, RunError, explain
from lab.core.rewards.registry import check_chosen, parse_chosen, score
from lab.core.settings import Settings, read_assignment
from lab.services import machine
from lab.services.lab import Lab
from lab.services.runs import Run

DONE, FAILED, WRONG_USE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except BadSettings as error:
        return complain(error, WRONG_USE)
    except LabError as error:
        return complain(error, FAILED)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return DONE
    except OSError as error:
        return complain(LabError(*_parts(error)), FAILED)


def _parts(error: BaseException) -> tuple[str, str, str]:
    problem = explain(error)
    return problem.what, problem.why, problem.next


def complain(error: LabError, code: int) -> int:
    print(f"error: {error.problem}", file=sys.stderr)
    return code


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

    sub = command("train", train, "Train, and follow it to its end. Ctrl-C stops after the step.")
    sub.add_argument("--recipe", choices=RECIPES, default=None,
                     help=f"where the settings start from (default: {DEFAULT_RECIPE})")
    sub.add_argument("--settings", type=Path, metavar="FILE.json",
                     help="settings of a run, or some of them, as JSON")
    sub.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE",
                     help="change one setting; may be given often")
    sub.add_argument("--steps", type=int, metavar="N", help="short for --set train.max_steps=N")
    sub.add_argument("--name", default="", help="a name for the run")
    sub.add_argument("--resume", metavar="RUN", help="go on with this run")

    sub = command("score", score_file, "Score answers of a file: one JSON object a line, with "
                  "completion, answer and any other column.")
    sub.add_argument("file", type=Path, metavar="FILE.jsonl")
    sub.add_argument("--rewards", metavar="NAME[:weight=W][:param=V],...",
                     help="default: all five, with weight 1")

    sub = command("eval", evaluate, "Answer held-out questions with base and tuned, and compare.")
    sub.add_argument("which", metavar="RUN")
    sub.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest adapter")
    sub.add_argument("--n", type=int, default=200, help="held-out questions, at most")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--sampled", action="store_true", help="draw answers instead of greedy ones")

    sub = command("export", export, "Take the LoRA home.")
    sub.add_argument("which", metavar="RUN")
    sub.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest adapter")
    sub.add_argument("--as", dest="kind", choices=("adapter",), default="adapter",
                     help="adapter: a zip that plain peft loads")
    sub.add_argument("--out", type=Path, required=True, metavar="PATH")

    command("runs", runs, "List the runs.")
    sub = command("doctor", doctor, "Check this machine, or look at the health of a run.")
    sub.add_argument("which", metavar="RUN", nargs="?")
    return top


def train(options: argparse.Namespace) -> int:
    lab = Lab.at(options.root)
    if options.resume:
        if options.recipe or options.settings or options.set:
            raise BadSettings("A resumed run keeps its settings.", "Only --steps can be given "
                              "with --resume.", "To change more, start a new run.")
        folder = lab.jobs.resume(options.resume, options.steps)
    else:
        folder = lab.jobs.start(chosen_settings(options), options.name,
                                say=lambda text: tell(options, f"{text} ..."))
    tell(options, f"Run {folder.id} in {folder.path}")
    run = follow(lab, folder.id, quiet=options.json)
    if options.json:
        print(json.dumps({
            "run": run.id, "folder": str(run.folder.path), "status": run.status,
            "steps": run.step, "reward_first": run.reward_first, "reward_last": run.reward_last,
            "seconds": round(run.seconds, 1)}))
    else:
        print(summary(run))
    if run.status == "failed":
        return complain(RunError(run.problem.what, run.problem.why, run.problem.next), FAILED)
    return DONE


def chosen_settings(options: argparse.Namespace) -> Settings:
    """Recipe, then file, then --set and --steps: the later wins."""
    settings = RECIPES[options.recipe or DEFAULT_RECIPE].settings()
    if options.settings:
        try:
            tree = json.loads(options.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadSettings(f"{options.settings} cannot be read.", str(error),
                              "Give a JSON file such as a run's settings.json.") from error
        tree = tree.get("settings", tree) if isinstance(tree, dict) else tree
        whole = Settings.from_dict(tree)  # complains about what is unknown
        given = {f"{group}.{name}" for group, members in tree.items() for name in members}
        settings = settings.with_values({key: whole.get(key) for key in given})
    settings = settings.with_values(dict(read_assignment(text) for text in options.set))
    if options.steps is not None:
        settings = settings.with_values({"train.max_steps": options.steps})
    return settings


def follow(lab: Lab, run_id: str, quiet: bool) -> Run:
    """Show a run's progress until its worker has ended; Ctrl-C asks it to stop, once."""
    line, told, asked = Line(quiet), 0, False
    while True:
        try:
            run, log = lab.runs.get(run_id), lab.runs.log(run_id)
            for notice in log.notices[told:]:
                line.say(f"{notice.level}: {notice.text}")
            told = len(log.notices)
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


def progress(run: Run, log) -> str:
    if not run.step:
        return f"{run.phase or 'Starting'} ..."
    share = run.step / run.steps
    bar = "#" * int(24 * share) + "." * (24 - int(24 * share))
    reward = log.newest("reward/weighted")
    per_step = log.mean("seconds/step", -10)
    left = run.seconds_left()
    parts = [f"[{bar}] {run.step}/{run.steps}"]
    parts += [f"reward {reward:.3f}"] if reward is not None else []
    parts += [f"{per_step:.2f} s a step"] if per_step is not None else []
    parts += [f"{int(left // 60)}:{int(left % 60):02d} left"] if left is not None else []
    return "  ".join(parts)


class Line:
    """One line on a terminal that is written over; on a pipe, a line whenever a tenth is done."""

    def __init__(self, quiet: bool) -> None:
        self.out = None if quiet else sys.stderr
        self.fancy = self.out is not None and self.out.isatty()
        self.text = ""

    def show(self, text: str) -> None:
        if self.out is None or text == self.text:
            return
        if self.fancy:
            self.out.write(f"\r\033[K{text}")
        elif self._tenth(text) != self._tenth(self.text):
            self.out.write(text + "\n")
        self.out.flush()
        self.text = text

    def say(self, text: str) -> None:
        end = "\r\033[K" if self.fancy else ""
        sys.stderr.write(f"{end}{text}\n")
        self.text = ""

    @staticmethod
    def _tenth(text: str) -> str:
        return text[:text.find("]")].rstrip(".")[: 1 + 24 * 10 // 10:3] if "]" in text else text


def summary(run: Run) -> str:
    first, last = run.reward_first, run.reward_last
    change = f" reward {first:.3f} -> {last:.3f}," if None not in (first, last) else ""
    text = f"{run.status.capitalize()} after {run.step} of {run.steps} steps,{change} " \
           f"{run.seconds:.0f} s."
    if run.status == "stopped":
        text += f"\nGo on with: python -m lab train --resume {run.id}"
    elif run.status == "finished":
        text += f"\nThe adapter is in {run.folder.adapter}"
    return text


def tell(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(text, file=sys.stderr)


def score_file(options: argparse.Namespace) -> int:
    try:
        chosen = parse_chosen(options.rewards) if options.rewards else Settings().rewards.chosen
    except ValueError as error:
        raise BadSettings(str(error)) from error
    if wrong := check_chosen(chosen):
        raise BadSettings(" ".join(wrong))
    scored = []
    for number, row in enumerate(read_answers(options.file), 1):
        completion = row.pop("completion", None)
        if not isinstance(completion, str):
            raise BadData(f"Row {number} of {options.file} has no text in 'completion'.",
                          f"It has: {', '.join(row) or 'nothing'}.",
                          'Write {"completion": "...", "answer": "..."} on each line.')
        scored.append(score(completion, row, chosen))
    if options.json:
        print(json.dumps({"rows": [asdict(s) for s in scored]}))
        return DONE
    names = [c.name for c in chosen]
    print("  ".join(f"{name:>13}" for name in [*names, "total"]))
    for result in scored:
        values = [*(result.rewards[name] for name in names), result.total]
        print("  ".join(f"{'-' if v is None else format(v, '.3f'):>13}" for v in values))
        for text in result.errors.values():
            print(f"    error: {text}")
    return DONE


def read_answers(path: Path) -> list[dict]:
    """Rows of a JSONL file. Raises BadData with the line's number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} cannot be read.", f"{error}.",
                      "Give a UTF-8 file with one JSON object a line.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadData(f"Line {number} of {path} is not JSON.", f"{error}.") from error
        if not isinstance(row, dict):
            raise BadData(f"Line {number} of {path} is not an object.", f"It is {line[:60]!r}.")
        rows.append(row)
    if not rows:
        raise BadData(f"{path} has no rows.", next="Give one JSON object a line.")
    return rows


def evaluate(options: argparse.Namespace) -> int:
    from lab.services.evaluate import evaluate as run_evaluation

    if options.n < 1:
        raise BadSettings("--n must be at least 1.")
    line = Line(options.json)
    result = run_evaluation(
        Lab.at(options.root).runs.get(options.which), options.checkpoint, options.n, options.seed,
        options.sampled, progress=lambda done, of: line.show(f"{done} of {of} answers"))
    del result["answers"]
    if options.json:
        print(json.dumps(result))
        return DONE
    print(f"\n{result['n']} held-out questions" + (", sampled" if options.sampled else ", greedy"))
    for name in ("base", "tuned"):
        side = result[name]
        right = "" if side["accuracy"] is None else f", {side['accuracy']:.1%} right"
        print(f"  {name:5}  reward {side['reward']:.3f}{right}")
    gap = result["difference"]["reward"]
    print(f"  difference in reward {gap['mean']:+.3f}, 95 % between {gap['low']:+.3f} and "
          f"{gap['high']:+.3f}, p = {gap['p']:.4f}")
    if right := result["difference"]["accuracy"]:
        print(f"  difference in accuracy {right['mean']:+.1%}, 95 % between {right['low']:+.1%} "
              f"and {right['high']:+.1%}, p = {right['p']:.4f}")
    print(f"  tuned is better on {result['wins']}, worse on {result['losses']}, alike on "
          f"{result['ties']}")
    if not result["adapter_live"]:
        print("  warning: the adapter changes no logit, so both sides are the same model")
    return DONE


def export(options: argparse.Namespace) -> int:
    from lab.services.export import adapter_zip

    folder = Lab.at(options.root).workspace.run(options.which)
    path = adapter_zip(folder, options.checkpoint, options.out)
    print(json.dumps({"path": str(path), "bytes": path.stat().st_size}) if options.json
          else f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return DONE


def runs(options: argparse.Namespace) -> int:
    found = Lab.at(options.root).runs.all()
    if options.json:
        print(json.dumps({"runs": [run.to_dict() for run in found]}))
    elif not found:
        print("No runs yet. Start one with: python -m lab train")
    for run in () if options.json else found:
        ends = [f"{r:.3f}" if r is not None else "-" for r in (run.reward_first, run.reward_last)]
        print(f"{run.id:40} {run.status:9} {run.step:>6}/{run.steps:<6} reward {' -> '.join(ends)}")
    return DONE


def doctor(options: argparse.Namespace) -> int:
    lab = Lab.at(options.root)
    if options.which:
        return doctor_of_run(options, lab)
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
        print(json.dumps({**asdict(facts), "stack": asdict(stack), "engines": asdict(ladder),
                          "missing": missing, "problems": [p.to_dict() for p in problems]}))
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


def doctor_of_run(options: argparse.Namespace, lab: Lab) -> int:
    """Status, notices and what the curves say."""
    run, log = lab.runs.get(options.which), lab.runs.log(options.which)
    found = diagnosis.findings(log.curves(), run.settings) if run.settings else []
    notices = [asdict(notice) for notice in log.notices]
    if options.json:
        print(json.dumps({**run.to_dict(), "notices": notices, "damaged_lines": log.damaged,
                          "findings": [asdict(f) for f in found]}))
    else:
        print(summary(run))
        for notice in log.notices:
            print(f"{notice.level}: {notice.text}")
        if log.damaged:
            print(f"warning: {log.damaged} damaged lines of events.jsonl were left out.")
        for finding in found:
            print(f"{finding.level}: {finding.what} {finding.figure} {finding.next}")
        if run.problem:
            print(f"problem: {run.problem}")
        if not (found or run.problem or log.notices or log.damaged):
            print("Nothing to report.")
    return FAILED if run.status in ("failed", "damaged") else DONE

