"""Pure parts of the core: metrics of groups, paired statistics, diagnosis, translated errors."""

import pytest

from lab.core import problems
from lab.core.insight import metrics, stats
from lab.core.insight.advantages import Group, advantages_of


def test_groups_are_told_dead_right_dead_wrong_or_alive():
    found = metrics.rollout_metrics([[4, 4], [1, 1], [0, 4], [None, 2]], best=4)
    assert found["groups/dead"] == pytest.approx(3 / 4)
    assert found["groups/dead_right"] == pytest.approx(1 / 4)
    assert found["groups/dead_wrong"] == pytest.approx(2 / 4)
    assert found["reward/weighted"] == pytest.approx((4 + 4 + 1 + 1 + 0 + 4 + 2) / 7)
    assert found["reward/low"] < found["reward/weighted"] < found["reward/high"]


def test_a_rollout_that_nobody_could_judge_has_no_metrics():
    assert metrics.rollout_metrics([[None, None]], best=1) == {}


def test_advantages_are_centred_scaled_and_zero_where_not_judged():
    def gains_of(totals, scale="group"):
        return advantages_of(Group(totals, totals), totals, scale)

    gains = gains_of([0, 2, None])
    assert gains[2] == 0 and gains[0] == pytest.approx(-gains[1])
    assert gains[1] == pytest.approx(1 / (2**0.5 + 1e-4))
    assert gains_of([0, 2], "none") == [-1, 1]
    assert gains_of([3, None]) == [0, 0] and gains_of([5, 5]) == [0, 0]


def test_charts_find_their_metrics():
    names = ["rewards/int/mean", "rewards/int/std", "reward/weighted", "rewards/a/mean"]
    each = next(c for c in metrics.CHARTS if c.key == "rewards")
    assert metrics.names_in(each, names) == ["rewards/int/mean", "rewards/a/mean"]


def test_a_clear_difference_is_sure_and_none_is_not():
    clear = stats.paired_difference([0.0] * 100, [0.0] * 20 + [1.0] * 80)
    assert clear.low > 0.6 and clear.high < 0.95 and clear.p < 0.001
    none = stats.paired_difference([0, 1] * 50, [1, 0] * 50)
    assert none.mean == 0 and none.low < 0 < none.high and none.p > 0.5
    assert stats.paired_difference([1, 2], [1, 2]).p == 1.0


def test_the_p_value_is_right_under_chance():
    """Among comparisons of mere noise, about one in twenty has p below 0.05."""
    import random

    draw = random.Random(1)
    low = sum(stats.paired_difference([draw.gauss(0, 1) for _ in range(30)],
                                      [draw.gauss(0, 1) for _ in range(30)], seed).p < 0.05
              for seed in range(60))
    assert low <= 9  # P(more than 9 of 60) is 0.001


def test_wins_losses_and_ties():
    assert stats.wins([1, 1, 1], [2, 0, 1]) == (1, 1, 1)
    with pytest.raises(ValueError):
        stats.paired_difference([], [])
    with pytest.raises(ValueError):
        stats.paired_difference([1], [1, 2])


class GatedRepoError(Exception):
    pass


@pytest.mark.parametrize("error, words", [
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "The GPU ran out of memory."),
    (OSError(28, "No space left on device"), "The disk is full."),
    (GatedRepoError("403"), "This model is gated."),
    (PermissionError(13, "Permission denied", "/x"), "may not be written"),
    (OSError("We couldn't connect to 'https://x' to load the files"), "could not be reached"),
    (MemoryError(), "The machine ran out of memory."),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "no text"),
    (OSError("It looks like the config file at 'x' is not a valid JSON file."), "cannot be read"),
    (OSError("x is not a local folder and is not a valid model identifier"), "no such model"),
])
def test_known_foreign_errors_are_told_in_our_words(error, words):
    told = problems.explain(error)
    assert words in told.what and told.next


def test_what_a_library_says_of_a_model_s_files_is_told_as_that():
    with pytest.raises(problems.BadModel) as told, \
            problems.reading_files_of_a_model("model's tokenizer"):
        raise KeyError("added_tokens")
    assert str(told.value).startswith("The model's tokenizer cannot be loaded. KeyError:")
    for other in (MemoryError, ImportError, RuntimeError("CUDA error: misaligned address")):
        with pytest.raises((MemoryError, ImportError, RuntimeError)), \
                problems.reading_files_of_a_model("model"):
            raise other


def test_an_unknown_error_keeps_its_own_words():
    told = problems.explain(KeyError("strange"))
    assert "KeyError" in told.why and "strange" in told.why


def test_every_translation_says_what_to_do():
    for row in problems.TRANSLATIONS:
        assert row.what.endswith(".") and row.next.endswith(".")
