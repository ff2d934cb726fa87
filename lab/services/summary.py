"""What a list needs of a run's events, kept beside them (summary.json): it reads no curve.

It is made of events.jsonl alone, so it may be lost, old or damaged at any time: it is then made
anew. It is known by the size and the time of change of what it was made of.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

from lab.core import events
from lab.core.files import write_whole
from lab.core.insight.goal import shares
from lab.services.run_log import RunLog
from lab.services.workspace import RunFolder

FORMAT = 1  # of the file; one of another format is made anew
SPARK = 48  # points of the small curve in a list
LONGEST = 2_000  # held-out evaluations that are kept in a summary; a run with more is read whole
CURVES = (("goal/reached", "goal"), ("goal/mean", "goal"), ("reward/weighted", "reward"))
Stamp = tuple[int, int]  # size and time of change of a file, before it was read


@dataclass(frozen=True)
class Spark:
    """A curve in small: `kind` is "held out", "goal" (both shares) or "reward"."""

    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """The events of a run in short. `goals` has (first, last) of the goal in training; `held_out`
    is as in `RunLog`; `last` is the newest event where it is one of the last words."""

    step: int = 0
    steps: int | None = None  # that were planned at its newest start
    seconds: float = 0.0  # of training before this stretch
    started_at: float = 0.0
    ended_at: float = 0.0
    held: float = 0.0  # seconds of pauses in this stretch that are over
    paused_at: float = 0.0  # since when it is in one; 0 where it is in none
    pace: float | None = None
    reward_first: float | None = None
    reward_last: float | None = None
    phase: str = ""
    unreadable: str = ""
    goals: Mapping[str, tuple[float | None, float | None]] | None = None
    held_out: Mapping[int, Mapping[str, float | None]] | None = None
    spark: Spark | None = None
    last: events.Event | None = None


def edge_of(points: int) -> int:
    """How many points the reward at a run's begin, and at its end, is a mean of."""
    return max(1, min(10, points // 4))


def goal_curves(log: RunLog, points: int) -> dict[str, tuple[float | None, float | None]]:
    """(first, last) of the goal in training over the first so many points."""
    edge = edge_of(points)
    return {name: (log.mean(name, 0, min(edge, points)),
                   log.mean(name, max(0, points - edge), points))
            for name in ("goal/reached", "goal/mean")}


def of_log(log: RunLog) -> Summary:
    """The summary of what was read so far."""
    points = len(log.steps)
    edge = edge_of(points)
    held_out = dict(log.held_out)
    return Summary(
        step=log.steps[-1] if points else 0, steps=log.started.steps if log.started else None,
        seconds=log.seconds, started_at=log.started_at, ended_at=log.ended_at, held=log.held,
        paused_at=log.paused_at, pace=log.pace(),
        reward_first=log.mean("reward/weighted", 0, edge),
        reward_last=log.mean("reward/weighted", -edge), phase=log.phase,
        unreadable=log.unreadable, goals=goal_curves(log, points), held_out=held_out,
        spark=spark_of(log, held_out),
        last=log.last if isinstance(log.last, events.LAST) else None)


def spark_of(log: RunLog, held_out: Mapping[int, Mapping[str, float | None]]) -> Spark | None:
    """The goal on held-out questions where it was asked often enough, else in training, else the
    reward; None where there is no curve yet."""
    asked = [share for _, share in shares(held_out)]
    if len(asked) > 2:
        return Spark("held out", _thinned(asked))
    for name, kind in CURVES:
        values = [value for value in list(log.metrics.get(name, ())) if not math.isnan(value)]
        if len(values) > 1:
            return Spark(kind, _thinned(values))
    return None


def _thinned(values: Sequence[float]) -> tuple[float, ...]:
    """Means of at most SPARK stretches of the same length: noise goes, the way stays."""
    count = min(SPARK, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return tuple(float(f"{sum(values[a:b]) / (b - a):.4g}")
                 for a, b in zip(edges, edges[1:], strict=False))


def stamp_of(path: Path) -> Stamp:
    """What was read of a file holds while this stays; of one that is not there, (0, 0)."""
    try:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    except OSError:
        return 0, 0


def read(folder: RunFolder, stamp: Stamp, goals: Mapping[str, float]) -> Summary | None:
    """The summary that was kept, where it is of these events and goal rewards; else None."""
    try:
        kept = json.loads(folder.summary.read_text(encoding="utf-8"))
        if (kept["format"], kept["of"], kept["goals"]) != (FORMAT, list(stamp), dict(goals)):
            return None
        body = kept["body"]
        return _read(json.loads(body)) if kept["crc"] == crc32(body.encode()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def keep(folder: RunFolder, stamp: Stamp, goals: Mapping[str, float], made: Summary) -> None:
    """Keep it for the next look; not where that cannot be: it is made anew then."""
    if made.unreadable or len(made.held_out or ()) > LONGEST:
        return
    last = json.loads(events.line_of(made.last)) | {"time": made.ended_at} if made.last else None
    body = asdict(made) | {"last": last, "held_out": list((made.held_out or {}).items())}
    text = json.dumps(body)  # as text, so that its check sum is that of what stands there
    with contextlib.suppress(OSError):
        write_whole(folder.summary, json.dumps({  # in ASCII, whatever a run's words hold
            "format": FORMAT, "of": stamp, "goals": dict(goals), "crc": crc32(text.encode()),
            "body": text}))


def _read(body: dict) -> Summary:
    spark = body["spark"]
    last = body["last"] and events.read_line(json.dumps(body["last"]))
    return Summary(**body | {
        "held_out": {step: told for step, told in body["held_out"]},
        "goals": {name: tuple(ends) for name, ends in body["goals"].items()},
        "spark": spark and Spark(spark["kind"], tuple(spark["values"])),
        "last": last and last[1]})
