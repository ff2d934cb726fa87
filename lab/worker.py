"""The child process behind every run, chat, evaluation: `python -m lab.worker train|chat|eval|...`

Training meets the app only through files: settings.json and data.jsonl in, events.jsonl out, and
the files `control` and `pause` that ask it to stop and to wait. Chat, evaluation and preflight
speak JSON lines on stdin and stdout.
`engine` is one attempt of `train`, in a process of its own where there is a GPU.
"""

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

NEXT_ENGINE = 75  # exit status: this engine cannot be used, try the next (EX_TEMPFAIL)
ASKED = {"preflight": "answering.preflight", "merge": "exporting.merge",
         "check": "exporting.check"}
ONCE_MORE = "GRPO_LAB_ONCE_MORE"  # set where an engine is tried for the second time


def main(arguments: list[str]) -> int:
    job, *rest = arguments
    if job in ASKED:
        return run_asked(ASKED[job])
    return {"train": run_training, "engine": run_attempt, "chat": run_chat,
            "eval": run_eval, "speed": run_speed}[job](*rest)


def go_offline_for(model: str) -> None:
    """A local model needs no network; without this, libraries still ask the Hub about it."""
    if Path(model).is_dir():
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
                       "HF_DATASETS_OFFLINE": "1"}
        for name in ("huggingface_hub.constants", "datasets.config"):
            if module := sys.modules.get(name):  # they have read the environment already
                module.HF_HUB_OFFLINE = True


def run_training(path: str) -> int:
    """Try the run's engines in their order, each in a process of its own, until one has worked.

    One that failed because something else took or gave back the GPU's memory in that moment is
    tried once more. On the CPU there is only one, and it works in this process.
    """
    from lab.core import events, lock

    folder = Path(path)
    held = lock.hold(folder / "worker.lock")
    if held is None:
        print("Another worker trains this run; this one ends.", file=sys.stderr)
        return lock.OCCUPIED
    record = read_record(folder)
    plans = record["plans"]
    if not set_aside_damaged(folder):
        return 1
    if not plans[0]["command"]:
        return run_engine(path, plans[0]["engine"])
    say = events.EventWriter(folder / "events.jsonl")
    for place, plan in enumerate(plans):
        before = (folder / "events.jsonl").stat().st_size
        code, why = run_child(folder, plan)
        if why:
            say(why)
            code = NEXT_ENGINE if isinstance(why, events.Notice) else 1
        said = said_since(folder, before)
        if code == 0 or (said and isinstance(said[-1], events.LAST)):
            return code
        steps = [event.step for event in said if isinstance(event, events.Step)]
        if said and unsettled(said[-1]) and ONCE_MORE not in plan["env"]:
            plans.insert(place + 1, plan | {"env": plan["env"] | {ONCE_MORE: "1"}})
        following = plans[place + 1:place + 2]
        if not following or (code != NEXT_ENGINE and steps):
            why = f"It was ended by signal {-code}, perhaps for lack of memory." if code < 0 \
                else f"Its exit status was {code}."
            say(events.Failed(
                steps[-1] if steps else 0, "The training process ended without a last word.", why,
                "Resume the run from its last checkpoint, or start it again. Its own words are in "
                "worker.log."))
            return 1
        if code != NEXT_ENGINE:
            say(events.Notice("warning", f"{plan['title']} ended by itself "
                              f"({'signal' if code < 0 else 'status'} {abs(code)}); its words are "
                              "in worker.log."))
        say(events.Notice("warning", f"Trying {following[0]['title']} in a new process."))
    return 1


def run_child(folder: Path, plan: dict) -> tuple[int, object]:
    """Run one engine to its end: its exit status, and of several processes the first one's reason
    where they failed. The GPU's memory is back when this returns."""
    import psutil

    from lab.backends.release import wait_for_release
    from lab.core import events

    scratch = folder / "scratch"  # Unsloth writes adapters for vLLM where it runs
    shutil.rmtree(scratch, ignore_errors=True)  # of a worker that was killed: with old reasons
    scratch.mkdir(exist_ok=True)
    process = subprocess.Popen(plan["command"], cwd=scratch, env={**os.environ, **plan["env"]},
                               stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    pids = {process.pid}
    while True:
        try:
            code = process.wait(2)
            break
        except subprocess.TimeoutExpired:
            with contextlib.suppress(psutil.Error):
                pids |= {p.pid for p in psutil.Process(process.pid).children(recursive=True)}
    wait_for_release(pids)
    told = [events.read_line(path.read_text(encoding="utf-8"))
            for path in reasons(folder).glob("*.json")]
    shutil.rmtree(scratch, ignore_errors=True)
    return code, next((event for _, event in sorted(filter(None, told), key=lambda one: one[0])),
                      None)


def reasons(folder: Path) -> Path:
    """Where each of several processes leaves why it failed. The first one knows; the others are
    ended, or only find that their connection is gone."""
    return folder / "scratch" / "failed"


def die_with_parent() -> None:
    """A child on Linux ends with its parent: no engine is left to hold the GPU for nobody."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def unsettled(event) -> bool:
    """Whether this tells of an engine that may work a moment later."""
    from lab.core.problems import PASSING

    return getattr(event, "kind", "") == PASSING


def said_since(folder: Path, offset: int) -> list:
    """The events that were written after this many bytes of events.jsonl."""
    from lab.core import events

    with (folder / "events.jsonl").open("rb") as f:
        f.seek(offset)
        lines = f.read().decode("utf-8", errors="replace").split("\n")  # no other line ends
    return [read[1] for line in lines if (read := events.read_line(line))]


def run_attempt(path: str, engine: str) -> int:
    """One engine in a process of its own: started by the worker, or by accelerate for it."""
    die_with_parent()
    return run_engine(path, engine)


def run_engine(path: str, engine: str) -> int:
    """Train with one engine, in this process. NEXT_ENGINE if it cannot be used and there is
    another; its reason is said as a notice."""
    from lab.core import events
    from lab.core.hardware.engines import Plan
    from lab.core.problems import LabError, WorkFailed, explain_in_training
    from lab.core.settings import TRL_VLLM, UNSLOTH, Settings

    folder = Path(path)
    rank, processes = (int(os.environ.get(name, default))
                       for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    write = events.EventWriter(folder / "events.jsonl") if rank == 0 else lambda event: None
    step, steps = 0, 0

    def say(event: events.Event) -> None:
        nonlocal step, steps
        step = getattr(event, "step", step)
        steps += isinstance(event, events.Step)
        write(event)

    def say_why(event: events.Event) -> None:
        """The end of this process. Of several, whoever started them says what the first told."""
        if processes == 1:
            say(event)
        else:
            reasons(folder).mkdir(parents=True, exist_ok=True)
            (reasons(folder) / f"{rank}.json").write_text(events.line_of(event), encoding="utf-8")

    last_engine = True
    try:
        say(events.Phase("Importing the libraries"))
        record = read_record(folder)
        plans = [plan["engine"] for plan in record["plans"]]
        last_engine = engine == plans[-1]
        plan = record["plans"][plans.index(engine)]
        chosen = Plan.from_dict(plan["plan"])
        settings = chosen.applied_to(Settings.from_dict(record["settings"]))
        if engine == plans[0]:
            for note in [*record.get("notes", []), *record.get("engine_notes", [])]:
                say(events.Notice("info", note))
        model = record["effective"]["model"]
        go_offline_for(model)
        os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # `rollout_func` is a pinned version's
        if engine == UNSLOTH:
            from lab.backends.engines import unsloth  # noqa: F401  before trl and transformers
        elif engine != TRL_VLLM:
            from lab.backends.without_vllm import hide

            hide()
        from lab.backends.engines.choose import make_engine
        from lab.backends.train import train
        from lab.core.adapters import newest_sound

        rows = read_lines(folder / "data.jsonl")
        aside = folder / "held_out.jsonl"
        made = make_engine(chosen, settings, model)
        say(train(made, settings, rows, folder, say, newest_sound(folder)[0],
                  wants_stop=lambda: is_to_stop(folder),
                  wants_pause=lambda: (folder / "pause").exists(),
                  held_out=read_lines(aside) if aside.exists() else []))
        return 0
    except BaseException as error:
        traceback.print_exc()
        problem = explain_in_training(error)
        expected = isinstance(error, LabError) and not isinstance(error, WorkFailed)
        # Without a next engine, this one may still be tried once more.
        last_engine = last_engine and (not unsettled(problem) or ONCE_MORE in os.environ)
        try:
            if not (last_engine or steps or expected or isinstance(error, KeyboardInterrupt)):
                say_why(events.Notice("warning", f"{plan['title']} cannot be used here. {problem}",
                                      problem.kind))
                return NEXT_ENGINE
            step = getattr(error, "step", step)
            say_why(events.Failed(step, problem.what, problem.why, problem.next, problem.kind))
        except OSError:  # a full disk: the supervisor writes the last word when it can
            traceback.print_exc()
        return 1


def is_to_stop(folder: Path) -> bool:
    """Whether a person asked for it. A run whose folder was deleted ends at once: whatever it
    still wrote would be lost, and put half a folder back."""
    if not (folder / "settings.json").exists():
        print("The run's folder was deleted; its worker ends.", file=sys.stderr, flush=True)
        os._exit(1)
    return (folder / "control").exists()


def read_record(folder: Path) -> dict:
    return json.loads((folder / "settings.json").read_text(encoding="utf-8"))


def set_aside_damaged(folder: Path) -> bool:
    """Put checkpoints that cannot be resumed out of the way, and say so. False if only such are
    there: to begin anew would not be what was asked for."""
    from lab.core import adapters, events

    if not adapters.steps_in(folder / "checkpoints"):
        return True
    say = events.EventWriter(folder / "events.jsonl")
    say(events.Phase("Reading the checkpoint"))
    sound, damaged = adapters.newest_sound(folder)
    for step, wrong in damaged.items():
        aside = folder / "checkpoints" / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / "checkpoints" / f"step-{step}").rename(aside)
        say(events.Notice("warning", f"{wrong} It is kept as checkpoints/damaged-{step}."
                          + (f" The run goes on from step {sound}." if sound else "")))
    if not sound:
        say(events.Failed(0, "No checkpoint of this run can be read.", " ".join(damaged.values()),
                          "Start a new run with the same settings."))
    say.close()
    return bool(sound)


def read_lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def run_chat(engine: str) -> int:
    """Answer with vLLM ("trl-vllm"), or with transformers on the GPU ("trl") or the CPU."""
    from lab.core.settings import CPU, TRL_VLLM

    requests, channel = claim_stdin(), claim_stdout()
    if engine == TRL_VLLM:
        from lab.backends.answering.chat_vllm import serve as serve_vllm

        return serve_vllm(requests, channel)
    from lab.backends.answering.chat import serve

    return serve(requests, channel, on_gpu=engine != CPU)


def run_eval() -> int:
    channel = claim_stdout()
    request = json.loads(sys.stdin.buffer.readline())
    go_offline_for(request["model"])
    from lab.backends.answering.evaluate import serve

    return serve(request, channel)


def run_asked(module: str) -> int:
    """One request on stdin, its replies on stdout; ends with the process that asked."""
    die_with_parent()
    channel = claim_stdout()
    request = json.loads(sys.stdin.buffer.readline())
    go_offline_for(request["model"])
    return importlib.import_module(f"lab.backends.{module}").serve(request, channel)


def run_speed(threads: str) -> int:
    die_with_parent()
    channel = claim_stdout()
    from lab.backends.speed import serve

    return serve(int(threads), channel)


def claim_stdin():
    """Our own channel on stdin. A library that asks the person something there (transformers does,
    before it runs a model's own code) finds nobody, instead of waiting for our next request."""
    channel = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


def claim_stdout():
    """Our own channel on stdout; whatever a library prints goes to stderr instead."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return channel


def work(arguments: list[str]) -> None:
    """Do the job, then end this process. Threads of the libraries must not keep it alive."""
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    work(sys.argv[1:])
