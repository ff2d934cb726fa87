"""Files of own rewards: kept by the lab and with each run, tried out, refused where changed."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.core.files import write_whole
from lab.core.problems import BadSettings, RunError
from lab.core.prompts import in_format
from lab.core.rewards import own, permission
from lab.core.rewards.calling import CannotScore, read_result, results_of
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.own import Source
from lab.core.settings import Settings
from lab.services.runs import Run
from lab.services.workspace import RunFolder

KEPT = "rewards_file"  # in a run's record: {"name", "sha256"}
TRIED_ROWS = 3
RIGHT = "the right answer"


def keep_upload(text: str, name: str, folder: Path) -> Path:
    """Write a file of rewards into the lab's own folder, under a name that no other text has.

    Raises BadSettings for what is no usable file of rewards.
    """
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", Path(name).stem).strip("-")[:60] or "rewards"
    refuse_mistakes(own.source_of(f"{stem}{own.SUFFIX}", text))
    path = folder / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:10]}{own.SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def refuse_mistakes(source: Source) -> None:
    if source.mistakes:
        raise BadSettings(f"{source.name} cannot be used.", " ".join(map(str, source.mistakes)),
                          field="rewards.file")


def refuse_broken(settings: Settings) -> None:
    """Raise BadSettings where the file of the chosen rewards cannot be imported in a child."""
    if not settings.rewards.own:
        return
    source = own.read(settings.rewards.file)
    refuse_mistakes(source)
    try:
        with own.server_of(source.name, source.text) as server:
            server.load()
    except CannotScore as error:
        raise BadSettings("The file of own rewards cannot be used.", str(error),
                          "Mend it, then check it under Rewards.", "rewards.file") from None


def keep(settings: Settings, folder: RunFolder) -> tuple[Settings, dict]:
    """Copy the file of the chosen rewards into the run's folder: (settings that point to the copy,
    what the record says of it)."""
    if not settings.rewards.own:
        return settings.with_values({"rewards.file": ""}), {}
    source = own.read(settings.rewards.file)
    folder.rewards.write_text(source.text, encoding="utf-8")
    return (settings.with_values({"rewards.file": str(folder.rewards)}),
            {KEPT: {"name": source.name, "sha256": source.sha256}})


def refuse_code(chosen: Sequence[Chosen]) -> None:
    """Raise BadSettings where one of these runs code, and none may run here."""
    running = [one for one in chosen if one.reward.runs_code]
    if running and not permission.code_allowed():
        raise BadSettings(f"The reward '{running[0].name}' runs code, and that is off here.",
                          next=permission.HOW, field="rewards.chosen")


def refuse_to_score(run: Run) -> None:
    """Raise where a run's answers cannot be scored as they were: code is off here, or the file of
    its rewards is not the one it was trained with."""
    refuse_code(run.settings.rewards.chosen)
    if not run.settings.rewards.own:
        return
    kept = run.record.get(KEPT)
    if isinstance(kept, dict) and kept.get("sha256") != own.read(run.folder.rewards).sha256:
        raise RunError(f"{run.folder.rewards.name} of run {run.id} was changed since its start.",
                       "Its answers would be scored by other rewards than it was trained with.",
                       "Put the old file back, or start a new run with the new one.")


@dataclass(frozen=True)
class Trial:
    """One answer under one reward of a file. `lines` are the person's own, where it failed."""

    reward: str
    what: str  # of the answer: "a right answer"
    question: str
    score: float | None
    error: str | None
    lines: tuple[str, ...] = ()


def dry_run(source: Source, rows: list[dict]) -> tuple[list[Trial], str]:
    """Every reward of a file on real rows, each with a right answer, a wrong one and none; and
    what the code printed. Raises BadSettings where it cannot be run at all."""
    refuse_mistakes(source)
    if why := permission.against_code():
        raise BadSettings("The rewards were not run.", why, field="rewards.file")
    asked = [(what, row, text) for row in rows[:TRIED_ROWS] for what, text in _answers(row)]
    tried = []
    with own.server_of(source.name, source.text) as server:
        try:
            server.load()
        except CannotScore as error:
            raise BadSettings(f"{error}", " ".join(error.lines), field="rewards.file") from None
    for name, reward in source.rewards.items():
        results = results_of(reward, [text for _, _, text in asked], [row for _, row, _ in asked],
                             {}, {})
        for (what, row, _), result in zip(asked, results, strict=True):
            score, error = read_result(reward, result)
            tried.append(Trial(name, what, str(row.get("question", "")), score, error,
                               getattr(result, "lines", ())))
    return tried, server.printed


def _answers(row: dict) -> list[tuple[str, str]]:
    reference = str(row.get("answer") or "")
    nothing = [("an empty answer", "")]
    if not reference:
        return [("an answer", in_format("I think.", "42")), *nothing]
    return [(RIGHT, in_format("It is known.", reference)),
            ("a wrong answer", in_format("I guess.", f"{reference}0")), *nothing]
