"""Stands between TRL and the rewards: keeps what was scored, and turns a rollout into metrics."""

import time
from collections import defaultdict
from collections.abc import Callable

import torch
from accelerate.utils import gather_object

from lab.backends import wording
from lab.core.insight import metrics
from lab.core.insight.advantages import NORMALIZE_FIRST, advantages_of, group_of
from lab.core.rewards.registry import GOAL, SHAPE
from lab.core.rewards.scoring import BatchReward, reached, share_of
from lab.core.settings import Settings

ERRORS = "reward_errors/"  # metrics that are counts: summed over the steps of a point


class Scoreboard:
    """What was scored, and how long it took.

    TRL calls each function of `functions` once per rollout, in order; after the last one the
    rollout is complete and becomes metrics and group records. Over several processes each holds
    whole groups of its own; metrics are of all of them, records of this one's.

    An answer that cannot be compared with its group (`metrics.left_out`) must not be ranked by the
    sum of the scores it has. TRL leaves answers without any score out of the baseline and gives
    them advantage 0: `bind` takes all their scores away before it computes advantages.
    """

    def __init__(self, settings: Settings, tokenizer) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.opened = wording.opened(tokenizer)
        self.rewards = [BatchReward(chosen) for chosen in settings.rewards.chosen]
        self.functions = [self._watched(reward) for reward in self.rewards]
        self.best = sum(c.weight * c.best for c in settings.rewards.chosen)
        self.stops: set[int] = set()
        self.seconds: dict[str, float] = defaultdict(float)
        self.pending: dict[str, list[float]] = defaultdict(list)
        self.groups: list[dict] = []
        self.processes = settings.hardware.processes()
        self._scores: dict[str, list[float | None]] = {}
        self._failed: dict[str, list[bool]] = {}
        self._left_out: list[bool] = []
        self.scored: Callable[[], None] = lambda: None  # called when a rollout has its scores

    def bind(self, trainer) -> None:
        """Let the trainer see no score of an answer that is left out of its group.

        Where it normalises each reward first, it does so in double precision: it divides by the
        deviation of the whole rollout, and where all answers of each group score alike that is
        rounding of single precision. Answers that teach nothing then got advantages of up to 2.
        """
        calculate = trainer._calculate_rewards
        precise = self.settings.train.multi_objective_aggregation == NORMALIZE_FIRST

        def comparable(*args, **kwargs):
            scores = calculate(*args, **kwargs)  # (N, F), of all processes
            out = torch.tensor(self.everyone(self._left_out), device=scores.device)
            scores[out] = torch.nan
            return scores.double() if precise else scores

        trainer._calculate_rewards = comparable
        if precise:
            generate = trainer._generate_and_score_completions

            def in_single_precision(*args, **kwargs):
                made = generate(*args, **kwargs)
                made["advantages"] = made["advantages"].float()
                return made

            trainer._generate_and_score_completions = in_single_precision

    def _watched(self, reward: BatchReward):
        def scored(prompts, completions, completion_ids, **columns):
            begun = time.perf_counter()
            before = reward.error_count
            if self.opened:  # TRL knows nothing of what the prompt has begun
                completions = [[{**one[0], "content": self.opened + one[0]["content"]}]
                               for one in completions]
            columns.pop("log_metric", None)  # errors are counted here; TRL would average them
            result = reward(prompts=prompts, completions=completions,
                            completion_ids=completion_ids, **columns)
            spent = time.perf_counter() - begun
            self.seconds["reward"] += spent
            self.seconds[f"reward/{reward.__name__}"] += spent
            failed = self.everyone([reward.error_count - before])
            self.pending[ERRORS + reward.__name__].append(float(sum(failed)))
            self._scores[reward.__name__] = result
            self._failed[reward.__name__] = reward.failed
            if reward is self.rewards[-1]:
                self._complete(prompts, completions, completion_ids, columns)
            return result

        scored.__name__ = reward.__name__  # TRL makes its metric keys from it
        return scored

    def _complete(self, prompts, completions, completion_ids, columns) -> None:
        train = self.settings.train
        size, chosen = train.num_generations, self.settings.rewards.chosen
        lines = [{name: scores[i] for name, scores in self._scores.items()}
                 for i in range(len(completions))]
        failed = [{name for name, marks in self._failed.items() if marks[i]}
                  for i in range(len(lines))]
        own = [group_of(lines[start:start + size], failed[start:start + size], chosen,
                        train.multi_objective_aggregation)
               for start in range(0, len(lines), size)]
        self._left_out = [total is None for group in own for total in group.totals]
        of_all = self.everyone([
            (total, compared, share_of(line, chosen, GOAL), reached(line, chosen),
             share_of(line, chosen, SHAPE)) for total, compared, line in zip(
                (total for group in own for total in group.totals),
                (value for group in own for value in group.compared), lines, strict=True)])
        sums, signals, goals, right, shapes = zip(*of_all, strict=True)
        grouped, compared = ([values[i:i + size] for i in range(0, len(values), size)]
                             for values in (sums, signals))
        told = self.everyone([self._of_group(lines[i:i + size], self._left_out[i:i + size],
                                             completions[i:i + size])
                              for i in range(0, len(lines), size)])
        signal, distinct = zip(*told, strict=True)
        for name, value in (metrics.rollout_metrics(grouped, self.best, compared)
                            | metrics.goal_metrics(goals, right, shapes)
                            | metrics.signal_metrics(signal)
                            | {"answers/distinct": sum(distinct) / len(distinct)}
                            | {"answers/left_out": sums.count(None) / len(sums)}).items():
            self.pending[name].append(value)
        # The first ones: which questions those are changes from step to step.
        wanted = min(train.log_groups, len(own))
        self.groups = [self._record(g, size, prompts, completions, completion_ids, columns,
                                    own[g], signals) for g in range(wanted)]
        self._scores, self._failed = {}, {}
        self.scored()

    def _of_group(self, lines, out, completions) -> tuple[dict[str, float] | None, float]:
        """(each reward's part of the signal, share of distinct answers) of one group."""
        compared = [{c.name: c.weight * (line[c.name] or 0.0)
                     for c in self.settings.rewards.chosen if c.weight > 0}
                    for line, left in zip(lines, out, strict=True) if not left]
        return (metrics.signal_shares(compared),
                metrics.distinct_share([messages[0]["content"] for messages in completions]))

    def everyone(self, values: list) -> list:
        """The values of every process, in the order of the processes."""
        return gather_object(values) if self.processes > 1 else values

    def drew(self, answers: list[list[int]], seconds: float,
             logprobs: list[list[float]] | None = None) -> None:
        """Take note of a rollout of this process: its answers, and how long it took; of several
        processes also how long it waits for the slowest.

        `logprobs` are those of the drawn tokens under the distribution they were drawn from. The
        mean of minus them estimates the entropy, which Unsloth's trainer does not log.
        """
        self.seconds["generation"] += seconds
        if self.processes > 1:  # what comes next needs the answers of all of them
            begun = time.perf_counter()
            torch.distributed.barrier()
            self.seconds["waiting"] += time.perf_counter() - begun
        self.pending["tokens_per_second"].append(
            self.processes * sum(map(len, answers)) / max(seconds, 1e-9))
        known = [value for line in logprobs or () for value in line if value is not None]
        if known:
            self.pending["entropy/sampled"].append(-sum(known) / len(known))

    def _record(self, g, size, prompts, completions, ids, columns, group, rollout) -> dict:
        lines = range(g * size, (g + 1) * size)
        train = self.settings.train
        gains = advantages_of(group, rollout, train.scale_rewards,
                              train.multi_objective_aggregation)
        failed = {reward.__name__: {e.completion: e.error for e in reward.errors}
                  for reward in self.rewards}
        answers = []
        for i, total, gain in zip(lines, group.totals, gains, strict=True):
            text = completions[i][0]["content"]
            answers.append({
                "text": text, "tokens": len(ids[i]), "cut": ids[i][-1] not in self.stops,
                "rewards": {name: scores[i] for name, scores in self._scores.items()},
                "errors": {name: told[text] for name, told in failed.items() if text in told},
                "total": total, "advantage": gain})
        row = {name: values[lines[0]] for name, values in columns.items()
               if isinstance(values, list)}
        return metrics.group_record(wording.render(self.tokenizer, prompts[lines[0]]), row, answers)

    def take(self) -> dict[str, float]:
        """What was gathered since the last call: means, and sums of errors."""
        taken = {name: sum(values) / (1 if name.startswith(ERRORS) else len(values))
                 for name, values in self.pending.items()}
        self.pending.clear()
        return taken
