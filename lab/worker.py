"""The child process behind every run, chat and evaluation: `python -m lab.worker train|chat|eval`.

Training meets the app only through files: settings.json and data.jsonl in, events.jsonl out, and
a file `control` that asks it to stop. Chat and evaluation speak JSON lines on stdin and stdout.
"""

import json
import os
import sys
import traceback
from pathlib import Path


def main(arguments: list[str]) -> int:
    job, *rest = arguments
    return {"train": run_training, "chat": run_chat, "eval": run_eval}[job](*rest)


def go_offline_for(model: str) -> None:
    """A local model needs no network; without this, libraries still ask the Hub about it."""
    if Path(model).is_dir():
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def run_training(path: str) -> int:
    from lab.core import events
    from lab.core.problems import explain
    from lab.core.settings import Settings

    folder = Path(path)
    say = events.EventWriter(folder / "events.jsonl")
    steps_done = 0

    def said(event: events.Event) -> None:
        nonlocal steps_done
        steps_done = getattr(event, "step", steps_done)
        say(event)

    try:
        said(events.Phase("Importing the libraries"))
        record = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        settings = Settings.from_dict(record["settings"])
        for note in record.get("notes", []):
            said(events.Notice("info", note))
        model = record["effective"]["model"]
        go_offline_for(model)
        os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # `rollout_func` is a pinned version's
        from lab.backends.train import train

        rows = read_lines(folder / "data.jsonl")
        last = train(settings, model, rows, folder, said, newest_checkpoint(folder),
                     wants_stop=(folder / "control").exists)
        said(last)
        return 0
    except BaseException as error:
        traceback.print_exc()
        problem = explain(error)
        try:
            say(events.Failed(steps_done, problem.what, problem.why, problem.next))
        except OSError:  # a full disk: the supervisor writes the last word when it can
            traceback.print_exc()
        return 1


def newest_checkpoint(folder: Path) -> int:
    """The step to resume from; 0 if there is no whole checkpoint."""
    return max((int(p.parent.name.removeprefix("step-"))
                for p in (folder / "checkpoints").glob("step-*/trainer_state.json")), default=0)


def read_lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def run_chat() -> int:
    channel = claim_stdout()
    from lab.backends.chat import serve

    return serve(sys.stdin.buffer, channel)


def run_eval() -> int:
    channel = claim_stdout()
    request = json.loads(sys.stdin.buffer.readline())
    go_offline_for(request["model"])
    from lab.backends.evaluate import serve

    return serve(request, channel)


def claim_stdout():
    """Our own channel on stdout; whatever a library prints goes to stderr instead."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the libraries must not keep the process alive
