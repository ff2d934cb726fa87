"""Preflight: its arithmetic against brute force, its advice, and real answers of the starter."""

import json
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import combinations
from statistics import fmean

import pytest

from lab.core.catalog import RECIPES
from lab.core.insight import preflight as arithmetic
from lab.core.insight.metrics import rollout_metrics
from lab.core.insight.preflight import Answer, Group, Sample, dead_groups, signal_shares, summary
from lab.core.insight.preflight_advice import Found, advice, follow, other_forms, taken
from lab.core.problems import BadSettings, WorkFailed
from lab.core.prompts import in_format
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.scoring import score
from lab.core.settings import Settings
from lab.services import preflight_record
from lab.services.data.load import read_rows
from lab.services.one_job import Cancelled
from lab.services.preflight import Progress, preflight
from lab.services.runs import read_record
from lab.services.workspace import PROJECT
from tests.conftest import QUICK
from tests.test_cli import SETS, last_object
from tests.test_cli import lab as command

NOTEBOOK = Settings().rewards.chosen


def group_of(texts: list[str], reference: str = "42", chosen=NOTEBOOK, question="What is 6 * 7?",
             cut=lambda text: False, tokens=lambda text: 1 + len(text) // 4) -> Group:
    columns = {"question": question, "answer": reference}
    answers = []
    for text in texts:
        told = score(text, columns, chosen)
        answers.append(Answer(text, tokens(text), cut(text), told.rewards, told.errors, told.total,
                              told.reached))
    return Group(columns, tuple(answers))


def sample_of(*groups: Group, prompts=(40, 50, 60), **more) -> Sample:
    return Sample(groups, prompts, **{"generation_seconds": 4.0, "reward_seconds": 0.1,
                                      "update_seconds": 2.0, "engine": "cpu"} | more)


def advised(settings: Settings, *groups: Group, longest=2048, rows=None, **more) -> dict:
    sample = sample_of(*groups, **more)
    figures = summary(sample, settings, 1.0, 1.0)
    return {one.rule: one for one in advice(Found(groups, settings, figures, longest, rows))}


GOOD, BARE, WRONG = in_format("6 * 7 = 42", "42"), "42", "I do not know."


# dead groups


@pytest.mark.parametrize("size", [2, 3, 4])
def test_dead_groups_are_those_of_all_ways_to_take_so_many_answers(size):
    draw = random.Random(size)
    totals = [[draw.choice([0.0, 0.5, 2.0, None]) for _ in range(7)] for _ in range(6)]
    totals += [[4.0] * 7, [0.0] * 7, [None] * 6 + [1.0], [4.0] * 6 + [3.0]]
    # What training says of each possible group, weighted so that every question counts alike.
    dead = right = judged = 0.0
    for of_question in totals:
        ways = list(combinations(of_question, size))
        for group in ways:
            told = rollout_metrics([group], best=4.0)
            if told:
                judged += 1 / len(ways)
                dead += told["groups/dead"] / len(ways)
                right += told["groups/dead_right"] / len(ways)
    found = dead_groups(totals, size, best=4.0)
    assert found.share == pytest.approx(dead / judged)
    assert found.right == pytest.approx(right / judged)
    assert found.wrong == pytest.approx((dead - right) / judged)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dead_groups_are_estimated_without_bias(rate):
    """P(dead) = p^G + (1 - p)^G for a score that is right or wrong."""
    draw = random.Random(f"{rate}")
    totals = [[float(draw.random() < rate) for _ in range(16)] for _ in range(4000)]
    for size in (2, 4, 8, 16):
        assert dead_groups(totals, size, 1.0).share == pytest.approx(
            rate ** size + (1 - rate) ** size, abs=0.02)


def test_dead_groups_are_averaged_over_the_questions_and_not_their_rates():
    totals = [[1.0] * 16, [0.0] * 16]  # half of all answers are right, and every group is dead
    found = dead_groups(totals, 8, 1.0)
    assert (found.share, found.right, found.wrong) == (1.0, 0.5, 0.5)


def test_a_group_that_was_not_answered_so_often_has_no_figure():
    assert dead_groups([[1.0] * 4], 8, 1.0) is None
    assert dead_groups([[None] * 4], 2, 1.0) is None
    assert dead_groups([], 2, 1.0) is None


def test_totals_that_differ_by_rounding_are_alike():
    assert dead_groups([[0.1 + 0.2, 0.3]], 2, 4.0).share == 1.0


# what each reward gives


def test_signal_shares_add_up_and_are_those_of_the_totals_variance():
    groups = [group_of([GOOD, BARE, WRONG, GOOD + "Done!"]), group_of([BARE, WRONG] * 2)]
    for scaled in (True, False):
        shares = signal_shares(groups, NOTEBOOK, scaled)
        assert sum(shares.values()) == pytest.approx(1)
    # In the second group only two rewards differ: "42" earns 0.5 of int and 2 of correctness.
    shares = signal_shares(groups[1:], NOTEBOOK)
    assert shares["correctness"] == pytest.approx(0.8) and shares["int"] == pytest.approx(0.2)
    assert shares["soft_format"] == pytest.approx(0)


def test_a_groups_size_in_the_signal_follows_how_advantages_are_scaled():
    loud, quiet = group_of([BARE, WRONG]), group_of([GOOD, GOOD + "Done!"])
    even, by_variance = (signal_shares([loud, quiet], NOTEBOOK, scaled)["correctness"]
                         for scaled in (True, False))
    assert even == pytest.approx(0.4)  # 0.8 of one of two groups
    assert by_variance > 0.6


def test_signal_shares_of_groups_that_are_all_dead_are_unknown():
    assert set(signal_shares([group_of([GOOD] * 4)], NOTEBOOK).values()) == {None}


def test_a_pass_is_a_goal_reached_or_the_highest_total_where_there_is_no_goal():
    groups = [group_of([GOOD, BARE, WRONG, WRONG])]
    assert arithmetic.pass_rates(groups, NOTEBOOK) == [0.5]
    shapes = parse_chosen("soft_format,int")
    groups = [group_of([GOOD, BARE, WRONG, WRONG], chosen=shapes)]
    assert arithmetic.pass_rates(groups, shapes) == [0.25]


def test_a_reward_that_never_fired_is_told_with_the_closest_answer():
    groups = [group_of([WRONG, "The answer is 42", "The answer is 41"] * 2)]
    found = {one["reward"]: one for one in arithmetic.never_fired(groups, NOTEBOOK)}
    assert set(found) == {"xmlcount", "soft_format", "strict_format", "int", "correctness"}
    assert found["correctness"]["answered"] == "The answer is 42"
    assert found["correctness"]["wanted"] == "42"
    assert found["strict_format"]["wanted"] == GOOD
    assert arithmetic.never_fired([group_of([GOOD, WRONG])], NOTEBOOK) == []


def test_an_answer_that_a_reward_failed_on_is_in_no_group():
    group = group_of([GOOD] * 3 + [WRONG])
    broken = replace(group.answers[3], errors={"int": "int failed"}, total=None,
                     rewards=group.answers[3].rewards | {"int": None})
    group = replace(group, answers=(*group.answers[:3], broken))
    assert arithmetic.comparable(group, NOTEBOOK)[3] is None
    assert dead_groups([arithmetic.comparable(group, NOTEBOOK)], 4, 4.0).right == 1.0
    told = summary(sample_of(group), Settings(), 1.0, None)
    assert told["left_out"] == 1 and told["errors"] == {"int": "int failed"}


def test_the_time_of_a_step_is_counted_per_answer():
    settings = Settings().with_values({"train.max_steps": 10, "train.eval_share": 0.0})
    sample = sample_of(group_of([GOOD] * 16), group_of([WRONG] * 16))
    told = summary(sample, settings, 1.0, None)
    assert told["step_parts"] == pytest.approx(
        {"generation": 8.0, "reward": 0.2, "update": 2.0})
    assert told["run_seconds"] == pytest.approx(102)
    asking = settings.with_values({"train.eval_steps": 5, "train.eval_questions": 16})
    assert summary(sample, asking, 1.0, None)["run_seconds"] == pytest.approx(102 + 3 * 2)
    sharing = settings.with_values({"train.eval_share": 0.1})
    assert summary(sample, sharing, 1.0, None)["run_seconds"] == pytest.approx(102 * 1.1)
    twice = settings.with_values({"train.num_iterations": 2})
    assert summary(sample, twice, 1.0, None)["step_parts"]["generation"] == pytest.approx(4.0)


# advice


def test_nothing_is_advised_where_nothing_is_wrong():
    texts = [GOOD, GOOD, BARE, WRONG] * 4
    settings = Settings().with_values({"train.max_completion_length": 24})
    assert advised(settings, *[group_of(texts)] * 4) == {}


def test_larger_groups_are_advised_where_fewer_of_them_would_be_dead():
    rare = [GOOD] * 2 + [WRONG] * 14
    settings = Settings().with_values({"train.num_generations": 4, "train.prompts_per_step": 16})
    one = advised(settings, *[group_of(rare)] * 4)["group_size"]
    assert one.set == {"train.num_generations": 8, "train.prompts_per_step": 8}
    assert "55%" in one.figure and "23%" in one.figure
    changed = settings.with_values(one.set)
    assert changed.train.answers_per_step() == settings.train.answers_per_step()
    hopeless = [group_of([WRONG] * 16)] * 4  # dead at every size
    assert "group_size" not in advised(settings, *hopeless)


def test_lengths_follow_the_95th_percentile_and_leave_room_in_the_sequence():
    def long(text):
        return 60

    settings = Settings().with_values({"train.max_completion_length": 64,
                                       "model.max_seq_length": 320})
    cut = group_of([GOOD, WRONG] * 8, tokens=long, cut=lambda text: text == WRONG)
    one = advised(settings, cut)["longest_answer"]
    assert one.set == {"train.max_completion_length": 128, "model.max_seq_length": 384}
    assert "50%" in one.figure
    assert "longest_answer" not in advised(settings, cut, longest=320)  # the model ends there
    short = group_of([GOOD, WRONG] * 8, tokens=lambda text: 30)
    roomy = settings.with_values({"train.max_completion_length": 160})
    assert advised(roomy, short)["longest_answer"].set == {"train.max_completion_length": 64}
    prompts = advised(settings, short, prompts=(100,) * 7 + (300,) * 3)["longest_prompt"]
    assert prompts.set["train.max_prompt_length"] == 304


def test_another_form_is_advised_where_it_says_what_is_meant():
    chosen = parse_chosen("int,strict_format,correctness")
    settings = Settings().with_values({"rewards.chosen": chosen})
    group = group_of([WRONG, "$42.00", GOOD.rstrip()] * 5 + [WRONG], chosen=chosen)
    other = other_forms(chosen)
    assert {one.name for one in other} == {"number", "last_number", "asked_format"}
    group = replace(group, answers=tuple(
        replace(answer, other=score(answer.text, group.columns, other).rewards)
        for answer in group.answers))
    one = advised(settings, group)["reward_form"]
    assert "31%" in one.figure and "'$42.00'" in one.figure
    now = settings.with_values(one.set).rewards.chosen
    assert [c.name for c in now] == ["int", "asked_format", "number"]
    # As much at most as before.
    assert [c.weight * c.best for c in now] == [c.weight * c.best for c in chosen]


def test_a_worked_example_is_advised_where_the_form_is_rare_and_makes_room_for_itself():
    settings = Settings().with_values({"train.max_prompt_length": 64})
    one = advised(settings, group_of([BARE, WRONG] * 8))["worked_example"]
    changed = follow(settings, one.set)
    prompt = changed.data.system_prompt
    assert prompt.startswith(settings.data.system_prompt.rstrip()) and "12 + 30 = 42" in prompt
    assert changed.train.max_prompt_length > 64
    assert score(prompt.split("answer:\n")[-1], {"answer": "42"}, NOTEBOOK).total == 4.0
    assert "worked_example" not in advised(changed, group_of([BARE, WRONG] * 8))


def test_what_is_meant_is_weighed_more_where_shapes_are_nearly_all_of_the_signal():
    chosen = parse_chosen("soft_format:weight=20,correctness")
    settings = Settings().with_values({"rewards.chosen": chosen})
    texts = [GOOD, in_format("?", "7"), BARE, WRONG] * 4
    one = advised(settings, group_of(texts, chosen=chosen))["goal_signal"]
    assert settings.with_values(one.set).rewards.chosen[1] == Chosen("correctness", 4.0)


def test_dead_questions_are_left_out_by_their_text_or_by_the_level():
    easy = [group_of([GOOD] * 16, question=f"Easy\n {n}?") for n in range(3)]
    live = [group_of([GOOD, WRONG] * 8, question=f"Live {n}?") for n in range(3)]
    file = Settings().with_values({"data.source": "file", "data.leave_out": "Before?"})
    one = advised(file, *easy, *live, rows=1000)["too_easy"]
    assert one.set == {"data.leave_out": "Before?\nEasy 0?\nEasy 1?\nEasy 2?"}
    assert "3 of 6" in one.figure and "1,000" in one.figure
    built_in = Settings().with_values({"data.level": 2})
    assert advised(built_in, *easy)["too_easy"].set == {"data.level": 3}
    hard = [group_of([WRONG] * 16)] * 4
    assert advised(built_in, *hard)["too_hard"].set == {"data.level": 1}
    assert advised(file, *hard, rows=5).get("too_hard") is None  # nothing would be left


def test_which_advice_was_taken_is_seen_in_the_settings():
    settings = Settings().with_values({"train.num_generations": 4, "train.prompts_per_step": 16})
    found = advised(settings, *[group_of([GOOD] * 2 + [WRONG] * 14)] * 4)
    told = json.loads(json.dumps([one.to_dict() for one in found.values()]))
    assert taken(told, settings) == [False] * len(told)
    changed = follow(settings, told[0]["set"])
    assert taken(told, changed)[0] is True


# the real thing


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """(lab, settings, result, what was told on the way) of a real preflight of the starter."""
    from lab.services.lab import Lab

    lab = Lab.at(tmp_path_factory.mktemp("preflight"))
    settings = RECIPES["starter"].settings().with_values(QUICK)
    told: list[Progress] = []
    result = preflight(lab, settings, 4, progress=told.append)
    return lab, settings, result, told


def test_a_preflight_answers_as_often_as_it_says_and_tells_all_that_it_must(flown):
    _, settings, result, told = flown
    assert (result["prompts"], result["answers"]) == (4, 64)
    assert len(result["pass_rates"]) == 4 and all(0 <= r <= 1 for r in result["pass_rates"])
    assert set(result["dead"]) == {"2", "4", "8", "16"}
    shares = list(result["dead"].values())
    assert all(0 <= share <= 1 for share in shares) and shares == sorted(shares, reverse=True)
    assert result["dead_right"] + result["dead_wrong"] == pytest.approx(result["dead"]["4"])
    assert set(result["rewards"]) == {c.name for c in settings.rewards.chosen}
    assert sum(row["signal_share"] for row in result["rewards"].values()) == pytest.approx(1)
    assert result["seconds_per_step"] > 0 and result["memory_gb"] > 0.5
    assert result["run_seconds"] == pytest.approx(result["seconds_per_step"] * 6 * 1.1)
    assert 0 < result["tokens"]["mean"] <= 24 and 0 <= result["cut"] <= 1
    json.dumps(result, allow_nan=False)
    phases = list(dict.fromkeys(now.phase for now in told))
    assert phases[0] == "Checking the settings" and phases[-1] == "Timing an update"
    assert Progress("Answering", 64, 64) in told


def test_a_run_keeps_what_of_the_advice_it_has_taken(flown):
    lab, settings, result, _ = flown
    advised = {"rule": "group_size", "what": "", "figure": "",
               "set": {"train.num_generations": 8, "train.prompts_per_step": 1}}
    preflight_record.keep(lab.workspace, settings, result | {"advice": [advised]})
    changed = settings.with_values(advised["set"] | {"train.temperature": 0.9, "train.seed": 1,
                                                     "train.max_steps": 1})
    folder = lab.jobs.start(changed)
    lab.jobs.kill(folder.id)
    kept = read_record(folder)["preflight"]
    assert kept["advice"] == [advised | {"taken": True}]
    assert kept["changed"] == ["train.temperature"]  # a seed changes no figure
    assert kept["prompts"] == 4 and kept["dead"] == result["dead"]
    assert preflight_record.for_run(
        lab.workspace, settings)["advice"][0]["taken"] is False
    assert preflight_record.for_run(
        lab.workspace, settings.with_values({"model.name": "a/b"})) is None
    lab.workspace.preflight.write_text("{")
    assert preflight_record.for_run(lab.workspace, settings) is None


def test_questions_that_are_left_out_are_not_trained_on(lab, quick):
    first = lab.jobs.start(quick)
    lab.jobs.kill(first.id)
    questions = [row["question"] for row in read_rows(first.data)]
    gone = "\n".join([questions[3], "  " + questions[5].replace(" ", "   "), "No such question?"])
    second = lab.jobs.start(quick.with_values({"data.leave_out": gone}))
    lab.jobs.kill(second.id)
    left = [row["question"] for row in read_rows(second.data)]
    assert left == [q for n, q in enumerate(questions) if n not in (3, 5)]
    assert any("2 of 600 rows were left out" in note for note in read_record(second)["notes"])
    assert read_rows(first.held_out) == read_rows(second.held_out)


def test_a_preflight_that_is_cancelled_ends_at_once_and_leaves_no_process(
        lab, quick, children):
    stop, answering = threading.Event(), set()

    def progress(now: Progress) -> None:
        if now.done:
            answering.update(children())
            stop.set()

    with pytest.raises(Cancelled):
        preflight(lab, quick, 64, progress=progress, stop=stop)
    assert answering and children() == set()
    assert not lab.workspace.preflight.exists()


def test_what_cannot_be_trained_is_refused_before_a_model_is_loaded(lab, quick):
    told = []
    with pytest.raises(BadSettings, match="needs a GPU"):
        preflight(lab, quick.with_values({"model.load_in_4bit": True}), progress=told.append)
    assert told == [Progress("Checking the settings")]


def test_prompts_that_are_all_too_long_are_said(lab, quick):
    with pytest.raises(WorkFailed, match="No question is left. All 600"):
        preflight(lab, quick.with_values({"train.max_prompt_length": 8}), 2)


def test_the_command_gives_the_object_of_the_contract_and_progress_on_stderr(tmp_path):
    done = command("preflight", "--root", tmp_path, *SETS, "--n", 2, "--json")
    assert done.returncode == 0, done.stderr
    told = last_object(done)
    assert {"prompts", "answers", "seconds", "pass_rates", "dead", "dead_right", "dead_wrong",
            "cut", "distinct", "rewards", "seconds_per_step", "run_seconds", "memory_gb",
            "advice"} <= set(told)
    assert told["prompts"] == 2 and told["answers"] == 32
    assert (tmp_path / "preflight.json").is_file()


def test_ctrl_c_cancels_the_command_with_a_sentence(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "lab", "preflight", "--root", str(tmp_path), *SETS, "--n", "200"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    for line in process.stderr:
        if line.startswith("[....") and "answers" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "The preflight was cancelled." in err and "Traceback" not in err
    assert out == "" and list(tmp_path.iterdir()) == []


def test_wrong_use_is_said(tmp_path):
    done = command("preflight", "--root", tmp_path, "--n", 0)
    assert done.returncode == 2 and "--n must be at least 1." in done.stderr


def test_the_questions_are_those_that_the_run_begins_with(lab, quick):
    settings = quick.with_values({"train.max_steps": 2, "train.log_groups": 2})
    result = preflight(lab, settings, 4)
    folder = lab.jobs.start(settings)
    lab.jobs.wait(folder.id)
    log = lab.runs.log(folder.id)
    trained = [group["columns"]["question"] for step in (1, 2) for group in log.groups_at(step)[1]]
    assert result["questions"] == trained


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {}, {"rewards.chosen": parse_chosen("correctness")},
    {"rewards.chosen": parse_chosen("correctness"), "data.level": 4}],
    ids=["starter", "goal alone", "goal alone, level 4"])
def test_dead_groups_are_within_ten_points_of_a_real_runs_first_ten_steps(lab, changes):
    settings = RECIPES["starter"].settings().with_values(changes | {"train.max_steps": 10})
    result = preflight(lab, settings)
    folder = lab.jobs.start(settings)
    lab.jobs.wait(folder.id)
    seen = fmean(lab.runs.log(folder.id).curves()["groups/dead"])
    assert result["dead"]["8"] == pytest.approx(seen, abs=0.1)
