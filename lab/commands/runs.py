"""`runs`: list them, find them, name and note them, set their settings beside each other."""

import argparse
import time

from lab.commands.shown import DONE, print_json
from lab.core.settings import ALL
from lab.core.words import duration
from lab.services import labels
from lab.services.history import NEWEST_FIRST, ORDERS, differing, listed
from lab.services.lab import Lab
from lab.services.lineage import origin_of
from lab.services.runs import Run
from lab.services.trash import KEPT_DAYS, size_told


def add(command) -> None:
    sub = command("runs", run, "List the runs, or change what is said of one.")
    sub.add_argument("--search", default="", metavar="WORDS", help="those that each word fits, by "
                     "name, model, data, tag or note; tag:WORD, note:WORD look there alone")
    sub.add_argument("--sort", choices=tuple(ORDERS), default=NEWEST_FIRST)
    sub.add_argument("--archived", action="store_true", help="the archived ones")
    sub.add_argument("--deleted", action="store_true",
                     help=f"the deleted ones, which are kept for {KEPT_DAYS} days")
    does = sub.add_mutually_exclusive_group()
    does.add_argument("--rename", nargs=2, metavar=("RUN", "NAME"))
    does.add_argument("--tag", nargs=2, metavar=("RUN", "TAGS"), help="with commas between")
    does.add_argument("--note", nargs=2, metavar=("RUN", "TEXT"))
    does.add_argument("--archive", metavar="RUN")
    does.add_argument("--unarchive", metavar="RUN")
    does.add_argument("--delete", metavar="RUN")
    does.add_argument("--restore", metavar="KEY", help="bring a deleted one back; --deleted lists "
                      "the keys")
    does.add_argument("--differ", nargs="+", metavar="RUN",
                      help="in which settings these runs differ")


def run(options: argparse.Namespace) -> int:
    lab = Lab.at(options.root)
    changes = {"name": options.rename, "tags": options.tag, "notes": options.note,
               "archived": (options.archive and (options.archive, True))
               or (options.unarchive and (options.unarchive, False))}
    for field, given in changes.items():
        if given:
            folder = lab.workspace.run(given[0])
            labels.change(folder, **{field: given[1]})
            return _tell(options, lab.runs.get(folder.id))
    if options.delete:
        gone = lab.jobs.delete(options.delete)
        if options.json:
            print_json({"run": gone.id, "deleted": gone.key})
        else:
            print(f"{gone.id} was deleted. For {KEPT_DAYS} days this brings it back: "
                  f"python -m lab runs --restore {gone.key}")
        return DONE
    if options.restore:
        return _tell(options, lab.runs.get(lab.trash.restore(options.restore).id))
    if options.differ:
        return _differ(options, [lab.runs.get(one) for one in options.differ])
    return _deleted(options, lab) if options.deleted else _list(options, lab)


def _list(options: argparse.Namespace, lab: Lab) -> int:
    runs = lab.runs.all()
    found = listed(runs, options.search, options.sort, options.archived)
    if options.json:
        print_json({"runs": [one.to_dict() for one in found]})
    elif not runs:
        print("No runs yet. Start one with: python -m lab train")
    elif not found:
        print(f"None of {len(runs)} runs fits.")
    known = {one.id: one for one in runs}
    for one in () if options.json else found:
        print(line_of(one, known))
    return DONE


def line_of(run: Run, known: dict[str, Run]) -> str:
    """A run in a line, and what a person says of it in another."""
    ends = [f"{r:.3f}" if r is not None else "-" for r in (run.reward_first, run.reward_last)]
    newest = run.folder.newest()
    line = (f"{run.id:40} {run.status:9} {run.step:>6}/{run.steps:<6} goal {run.goal_told:26} "
            f"adapter {newest.title if newest else '-':12} best "
            f"{f'step {run.best.step}' if run.best else '-':9} reward {' -> '.join(ends)}")
    origin = origin_of(run, known)
    more = [run.name] if run.name not in run.id else []
    more += [run.settings.model.name] if run.settings else []
    more += [f"verdict {run.verdict['judgement']}"] if run.verdict else []
    more += [f"begins from {origin}"] if origin else []
    more += [f"took {duration(run.seconds)}"] if run.seconds else []
    more += [f"tags {', '.join(run.label.tags)}"] if run.label.tags else []
    more += [" ".join(run.label.notes.split())] if run.label.notes else []
    return f"{line}\n    {'; '.join(more)}" if more else line


def _tell(options: argparse.Namespace, one: Run) -> int:
    if options.json:
        print_json(one.to_dict())
    else:
        print(line_of(one, {one.id: one}))
    return DONE


def _deleted(options: argparse.Namespace, lab: Lab) -> int:
    found = lab.trash.all()
    if options.json:
        print_json({"deleted": [{"key": one.key, "run": one.id, "name": one.name,
                                 "when": one.when, "bytes": one.bytes()} for one in found]})
    elif not found:
        print("No deleted runs.")
    for one in () if options.json else found:
        print(f"{one.key}  {time.strftime('%Y-%m-%d %H:%M', time.localtime(one.when))}  "
              f"{size_told([one]):>9}  {one.id}  {one.name}")
    return DONE


def _differ(options: argparse.Namespace, many: list[Run]) -> int:
    known = [one for one in many if one.settings is not None]
    found = differing([one.settings for one in known])
    if options.json:
        plain = {setting.key: setting for setting in ALL}
        print_json({"runs": [one.id for one in known], "settings": {
            key: [one.settings.to_dict()[plain[key].group][plain[key].name] for one in known]
            for key in found}})
        return DONE
    if not found:
        print("Their settings are the same.")
    for key, values in found.items():
        print(f"{key:34} {'  |  '.join(' '.join(str(value).split())[:60] for value in values)}")
    return DONE
