"""Stands between TRL and the rewards: keeps what was scored, and turns a rollout into metrics."""

import time
from collections import defaultdict

import torch
from accelerate.utils import gather_object

from lab.backends import plain
from lab.core import metrics
from lab.core.rewards.registry import REWARDS, BatchReward, total_of
from lab.core.settings import Settings

ERRORS = "reward_errors/"  # metrics that are counts: summed over the steps of a point


class Scoreboard:
    """What was scored, and how long it took.

    TRL calls each function of `functions` once per rollout, in order; after the last one the
    rollout is complete and becomes metrics and group records. Over several processes each holds
    whole groups of its own; metrics are of all of them, records of this one's.
    """

    def __init__(self, settings: Settings, tokenizer) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.rewards = [BatchReward(chosen) for chosen in settings.rewards.chosen]
        self.functions = [self._watched(reward) for reward in self.rewards]
        self.best = sum(c.weight * REWARDS[c.name].max_score for c in settings.rewards.chosen)
        self.stops: set[int] = set()
        self.seconds: dict[str, float] = defaultdict(float)
        self.pending: dict[str, list[float]] = defaultdict(list)
        self.groups: list[dict] = []
        self.processes = settings.hardware.processes()
        self._scores: dict[str, list[float | None]] = {}

    def _watched(self, reward: BatchReward):
        def scored(prompts, completions, completion_ids, **columns):
            begun = time.perf_counter()
            before = reward.error_count
            columns.pop("log_metric", None)  # errors are counted here; TRL would average them
            result = reward(prompts=prompts, completions=completions,
                            completion_ids=completion_ids, **columns)
            self.seconds["reward"] += time.perf_counter() - begun
            failed = self.everyone([reward.error_count - before])
            self.pending[ERRORS + reward.__name__].append(float(sum(failed)))
            self._scores[reward.__name__] = result
            if reward is self.rewards[-1]:
                self._complete(prompts, completions, completion_ids, columns)
            return result

        scored.__name__ = reward.__name__  # TRL makes its metric keys from it
        return scored

    def _complete(self, prompts, completions, completion_ids, columns) -> None:
        size = self.settings.train.num_generations
        totals = [self._total(i) for i in range(len(completions))]
        of_all = self.everyone(totals)
        grouped = [of_all[i:i + size] for i in range(0, len(of_all), size)]
        for name, value in metrics.rollout_metrics(grouped, self.best).items():
            self.pending[name].append(value)
        # The first ones: which questions those are changes from step to step.
        wanted = min(self.settings.train.log_groups, len(totals) // size)
        self.groups = [self._record(g, size, prompts, completions, completion_ids, columns, totals)
                       for g in range(wanted)]
        self._scores = {}

    def everyone(self, values: list) -> list:
        """The values of every process, in the order of the processes."""
        return gather_object(values) if self.processes > 1 else values

    def drew(self, answers: list[list[int]], seconds: float,
             logprobs: list[list[float]] | None = None) -> None:
        """Take note of a rollout of this process: its answers, and how long it took.

        `logprobs` are those of the drawn tokens under the distribution they were drawn from. The
        mean of minus them estimates the entropy, which Unsloth's trainer does not log.
        """
        self.seconds["generation"] += seconds
        self.pending["tokens_per_second"].append(
            self.processes * sum(map(len, answers)) / max(seconds, 1e-9))
        known = [value for line in logprobs or () for value in line if value is not None]
        if known:
            self.pending["entropy/sampled"].append(-sum(known) / len(known))

    def _total(self, i: int) -> float | None:
        return total_of({name: scores[i] for name, scores in self._scores.items()},
                        self.settings.rewards.chosen)

    def _record(self, g, size, prompts, completions, ids, columns, totals) -> dict:
        lines = range(g * size, (g + 1) * size)
        gains = self._advantages(totals, lines)
        failed = {reward.__name__: {e.completion: e.error for e in reward.errors}
                  for reward in self.rewards}
        answers = []
        for i, gain in zip(lines, gains, strict=True):
            text = completions[i][0]["content"]
            answers.append({
                "text": text, "tokens": len(ids[i]), "cut": ids[i][-1] not in self.stops,
                "rewards": {name: scores[i] for name, scores in self._scores.items()},
                "errors": {name: told[text] for name, told in failed.items() if text in told},
                "total": totals[i], "advantage": gain})
        row = {name: values[lines[0]] for name, values in columns.items()
               if isinstance(values, list)}
        return metrics.group_record(plain.render(self.tokenizer, prompts[lines[0]]), row, answers)

    def _advantages(self, totals, lines) -> list[float]:
        how = self.settings.train.scale_rewards
        group = [totals[i] for i in lines]
        if how != "batch":
            return metrics.advantages(group, scale=how == "group")
        known = [t for t in totals if t is not None]
        spread = float(torch.tensor(known).std()) if len(known) > 1 else 0.0
        return [a / (spread + 1e-4) for a in metrics.advantages(group, scale=False)]

    def take(self) -> dict[str, float]:
        """What was gathered since the last call: means, and sums of errors."""
        taken = {name: sum(values) / (1 if name.startswith(ERRORS) else len(values))
                 for name, values in self.pending.items()}
        self.pending.clear()
        return taken
