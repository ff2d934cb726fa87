"""Answers under the chosen rewards: each score, their sum, the goal; and in TRL's own shape."""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.core.knobs import settle
from lab.core.rewards.calling import Judged, read_result, results_of, text_of
from lab.core.rewards.chosen import Chosen, refuse_problems
from lab.core.rewards.registry import GOAL

ALMOST = 1e-9  # a score this close to a reward's highest is full
KEPT_ERRORS = 100  # rows with their text; completions are long and a broken reward fails on each


@dataclass(frozen=True)
class Scored:
    """One completion under several rewards.

    `rewards` holds each raw score, before its weight, None where there is none; `errors` says why,
    for those that failed. `total` is the weighted sum of the scores there are: just what the
    trainer learns from. It is None if there are none, and where a reward of weight above 0 failed:
    without its points the answer would be ranked as if it had scored 0.

    `goal` is the share of their highest scores that the goal rewards gave, weights aside, and
    `reached` whether all of them gave it; None where no goal is chosen or one could not judge.
    """

    rewards: dict[str, float | None]
    errors: dict[str, str]
    total: float | None
    goal: float | None = None
    reached: bool | None = None


def score(completion: str, columns: Mapping[str, Any], chosen: Sequence[Chosen]) -> Scored:
    """Scores one completion: in training, on the command line, in the try-it box, in comparisons.

    `columns` is the completion's row of the data. What goes wrong with this row is in `errors`;
    a choice that no row could be scored with (an unknown name, a bad parameter) is a ValueError.
    """
    return score_all([completion], [columns], chosen)[0]


def score_all(completions: Sequence[str], rows: Sequence[Mapping[str, Any]],
              chosen: Sequence[Chosen], **given: Sequence[Any]) -> list[Scored]:
    """Scores many completions, each with its row: much quicker than one by one where a reward
    takes lists. `given` are further lists of GIVEN, such as `prompts`."""
    judged = {}
    for one in chosen:
        refuse_problems(one)
        judged[one.name] = judge_all(completions, rows, one, given)
    found = []
    for place in range(len(completions)):
        rewards = {name: line[place][0] for name, line in judged.items()}
        errors = {name: line[place][1] for name, line in judged.items() if line[place][1]}
        found.append(Scored(rewards, errors, total_of(rewards, errors, chosen),
                            share_of(rewards, chosen, GOAL), reached(rewards, chosen)))
    return found


def judge_all(completions: Sequence[Any], rows: Sequence[Mapping[str, Any]], chosen: Chosen,
              given: Mapping[str, Any]) -> list[Judged]:
    """(score, error) of each completion. Both are None where the reward says so, and where a
    column it needs is empty in this row."""
    known = chosen.reward
    params = {key: settle(value, known.knobs[key].kind) for key, value in chosen.params}
    return [read_result(known, result)
            for result in results_of(known, completions, rows, params, given)]


def total_of(rewards: Mapping[str, float | None], errors: Collection[str],
             chosen: Sequence[Chosen]) -> float | None:
    """The weighted sum of the scores there are; None if there are none, or one that counts failed.

    `errors` holds the names of the rewards that failed.
    """
    if any(one.weight > 0 and one.name in errors for one in chosen):
        return None
    judged = [one.weight * rewards[one.name] for one in chosen if rewards[one.name] is not None]
    return sum(judged) if judged else None


def share_of(rewards: Mapping[str, float | None], chosen: Sequence[Chosen],
             kind: str) -> float | None:
    """Which share of their highest scores the rewards of a kind gave, each counting alike; at
    least 0. None where there is none of this kind, or one that gave no score."""
    of_kind = [(rewards[one.name], one.best) for one in chosen if one.takes_as == kind]
    if not of_kind or any(score is None for score, _ in of_kind):
        return None
    return sum(max(0.0, score) / best for score, best in of_kind) / len(of_kind)


def reached(rewards: Mapping[str, float | None], chosen: Sequence[Chosen]) -> bool | None:
    """Whether every goal reward gave its highest score: what accuracy counts. None as above."""
    return all_full(rewards, {one.name: one.best for one in chosen if one.takes_as == GOAL})


def all_full(rewards: Mapping[str, float | None], goals: Mapping[str, float]) -> bool | None:
    """The same by the highest scores of the goals, {name: score}."""
    given = [(rewards.get(name), best) for name, best in goals.items()]
    if not given or any(score is None for score, _ in given):
        return None
    return all(score >= best - ALMOST for score, best in given)


class RowError(NamedTuple):
    """What went wrong with one completion."""

    error: str
    completion: str


class BatchReward:
    """One chosen reward in the shape that TRL calls: lists in, a list out.

    A class and not a closure, so that it can be pickled into a child process. `__name__` is the
    reward's, since TRL makes its metric keys from it. The weight is not applied: TRL has it from
    its `reward_weights`. A row that fails gets None, which TRL would leave out of the sum: see
    `lab/backends/scoreboard.py` for what becomes of it. `error_count` counts such rows, `failed`
    marks those of the newest call, `errors` keeps the last ones.
    """

    def __init__(self, chosen: Chosen) -> None:
        refuse_problems(chosen)  # now, and not at the first step
        self.chosen = chosen
        self.__name__ = chosen.name
        self.error_count = 0
        self.failed: list[bool] = []  # of the newest call, an entry for each completion
        self.errors: deque[RowError] = deque(maxlen=KEPT_ERRORS)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | Sequence[Mapping[str, Any]]],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One score or None for each of the N completions: text, or a list of messages that ends
        with the answer. Those of `columns` that are lists hold N values each."""
        # Not all that comes by name is a column: TRL adds helpers of its own, version by version.
        columns = {key: values for key, values in columns.items() if isinstance(values, list)}
        if completion_ids is not None:
            columns["completion_tokens"] = [len(ids) for ids in completion_ids]
        rows = [{key: values[row] for key, values in columns.items()}
                for row in range(len(completions))]
        given = {"prompts": list(prompts), "trainer_state": trainer_state}
        if completion_ids is not None:
            given["completion_ids"] = list(completion_ids)
        judged = judge_all(completions, rows, self.chosen, given)
        scores = [found for found, _ in judged]
        self.failed = [bool(error) for _, error in judged]
        self.errors += [RowError(error, text_of(completion))
                        for completion, (_, error) in zip(completions, judged, strict=True)
                        if error]
        self.error_count += sum(self.failed)
        if log_metric is not None:
            log_metric(f"reward_errors/{self.__name__}", sum(self.failed))
        return scores
