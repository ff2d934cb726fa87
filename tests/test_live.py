"""What the live view's browser side may ask: rows and nothing twice, few bytes, whoever asks."""

import json
import random
import time

import gradio as gr
import pytest

from lab.core import doing, events
from lab.core.insight.metrics import group_record
from lab.core.rewards.chosen import parse_chosen
from lab.core.settings import Settings
from lab.services import verdicts
from lab.services.lab import Lab
from lab.ui.live import BUDGET, HELD_OUT_SHOWN, MOST_BEHIND, Feed, LiveView, engine_of
from tests.test_verdict import a_verdict

REWARDS = ("xmlcount", "soft_format", "strict_format", "int", "correctness")
KIB = 1024


def metrics(step: int, beta: bool = False) -> dict[str, float]:
    """As many as a real run has: the trainer's names and ours."""
    chance = random.Random(step)
    found = {"reward/weighted": step / 7000, "reward/low": -0.12345678, "reward/high": 1.2345678,
             "reward/within_group_std": 0.5, "groups/dead": 0.25, "groups/dead_right": 0.125,
             "groups/dead_wrong": 0.125, "completions/mean_length": 123.456789,
             "completions/clipped_ratio": 0.0625, "loss": -1.2345e-05, "learning_rate": 4.98765e-06,
             "goal/reached": chance.random(), "goal/mean": chance.random(),
             "shape/mean": chance.random()}
    for name in REWARDS:
        found |= {f"rewards/{name}/mean": chance.random(), f"rewards/{name}/std": chance.random(),
                  f"reward_errors/{name}": 0.0}
    if beta:
        found["kl"] = chance.random()
    return found | {f"trainer/other_{i}": chance.random() for i in range(12)}


def answer(text: str, advantage: float) -> dict:
    return {"text": text, "tokens": 3, "cut": False, "rewards": {"int": 0.5, "correctness": None},
            "errors": {"correctness": "correctness failed: ValueError: no"}, "total": 0.5,
            "advantage": advantage}


class Run:
    """A run folder whose worker is this test."""

    def __init__(self, lab: Lab, name: str = "a run", values: dict | None = None) -> None:
        self.folder = lab.workspace.make().new_run(name)
        self.id = self.folder.id
        settings = Settings().with_values({"train.max_steps": 20_000, **(values or {})})
        self.folder.settings.write_text(json.dumps({
            "settings": settings.to_dict(), "name": name, "created": time.time(),
            "stack": {"value": "cpu", "why": "no CUDA device was found"}}))
        self.write = events.EventWriter(self.folder.events)

    def begin(self, resumed_from: int = 0) -> "Run":
        self.write(events.Started(20_000, resumed_from, {}))
        return self

    def steps(self, first: int, last: int, **look) -> "Run":
        with self.folder.events.open("ab") as file:  # in one go: ten thousand flushes take long
            file.writelines(events.line_of(events.Step(n, metrics(n, **look))).encode()
                            for n in range(first, last + 1))
        return self


@pytest.fixture
def lab(tmp_path):
    return Lab.at(tmp_path / "runs")


@pytest.fixture
def feed(lab):
    return Feed(lab)


def test_what_goes_on_within_a_step_is_told_and_damage_is_nothing(tmp_path):
    pen = doing.Doing(tmp_path)
    pen.begin()
    pen("answering", 7, 16)
    pen("answering", 8, 16)  # a moment later: not worth a write
    now = doing.read(tmp_path)
    assert (now.what, now.done, now.of) == ("answering", 7, 16)
    pen("learning")
    assert doing.read(tmp_path).what == "learning"
    pen.end()
    assert doing.read(tmp_path) is None
    for text in ("", "[]", '{"what": "x", "done": 1, "of": 2, "begun": 0}', '{"what": "x"}'):
        (tmp_path / doing.FILE).write_text(text)
        assert doing.read(tmp_path) is None


class Reader:
    """The browser's part of the protocol, in few lines (assets/live.js: once, open)."""

    def __init__(self, feed: Feed, wanted: str = "") -> None:
        self.feed, self.wanted = feed, wanted
        self.run, self.epoch, self.cursor, self.names = "", -1, 0, 0
        self.x, self.y, self.loaded = [], [], 0

    def tick(self) -> dict:
        while True:
            reply = self.feed.tick([self.wanted, self.run, self.epoch, self.cursor, self.names])
            if reply.get("reload"):
                whole = self.feed.history([self.wanted])
                self.run, self.loaded = whole["run"], self.loaded + 1
                if self.run:
                    self.epoch, self.cursor = whole["epoch"], whole["cursor"]
                    self.x, self.y = whole["x"], whole["y"]
                    self.names = len(self.y)
                return whole
            for step, *values in reply.get("rows", []):
                assert len(values) == len(self.y)
                self.x.append(step)
                for column, value in zip(self.y, values, strict=True):
                    column.append(value)
            self.cursor = reply.get("cursor", 0)
            if not reply.get("more"):
                return reply


def sent(value) -> int:
    """Bytes of this value as gradio puts it on the wire."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def asked(arguments: list) -> int:
    """Bytes of the request around these arguments."""
    return sent({"data": arguments, "component_id": 1234, "fn_name": "tick",
                 "session_hash": "abcdefghijk"})


def test_with_no_run_there_is_nothing_to_show(feed):
    assert feed.tick(["", "", -1, 0, 0]) == {"run": "", "status": "none", "reload": False}
    assert feed.history([""]) == {"run": "", "status": "none"}
    assert feed.listing([]) == []


def test_a_reader_gets_every_point_once_and_in_order(lab, feed):
    run = Run(lab).begin().steps(1, 5)
    reader = Reader(feed)
    reader.tick()
    assert reader.x == [1, 2, 3, 4, 5] and reader.run == run.id
    for last in (6, 7, 30):
        run.steps(reader.x[-1] + 1, last)
        reader.tick()
        assert reader.x == list(range(1, last + 1))
    assert reader.loaded == 1
    whole = Reader(feed)
    whole.tick()
    assert whole.x == reader.x and whole.y == reader.y


def test_a_tick_without_news_has_no_rows(lab, feed):
    Run(lab).begin().steps(1, 5)
    reader = Reader(feed)
    reader.tick()
    assert reader.tick()["rows"] == []


@pytest.mark.parametrize("length", [10, 10_000])
def test_a_tick_moves_less_than_a_kibibyte_however_long_the_run(lab, feed, length):
    run = Run(lab, "a name that is as long as the lab keeps it").begin().steps(1, length)
    run.write(events.Samples(length, [group_record("q" * 5000, {}, [answer("a" * 9000, 1.0)])]))
    reader = Reader(feed)
    reader.tick()
    for news in (1, 2, 30):  # points since the last tick
        run.steps(length + 1, length + news)
        arguments = ["", reader.run, reader.epoch, reader.cursor, reader.names]
        reply = feed.tick(arguments)
        assert reply["rows"] and asked(arguments) + sent(reply) < KIB
        assert sent(reply["rows"]) <= BUDGET + 2
        reader.tick()
        length += news
        assert reader.x[-1] == length


def test_a_long_run_opens_thinned_and_fast_and_ends_at_its_newest_point(lab, feed):
    Run(lab).begin().steps(1, 10_000)
    begun = time.monotonic()
    reader = Reader(feed)
    whole = reader.tick()
    assert time.monotonic() - begun < 10
    assert len(reader.x) <= 2000 and reader.x[-1] == 10_000 and reader.cursor == 10_000
    assert all(len(column) == len(reader.x) for column in reader.y)
    assert sent(whole) < 400 * KIB


def test_a_reader_far_behind_loads_the_run_anew(lab, feed):
    run = Run(lab).begin().steps(1, 10)
    reader = Reader(feed)
    reader.tick()
    run.steps(11, 10 + MOST_BEHIND + 1)
    reader.tick()
    assert reader.loaded == 2 and reader.x == list(range(1, 11 + MOST_BEHIND + 1))


def test_a_resume_that_takes_steps_back_makes_readers_start_over(lab, feed):
    run = Run(lab).begin().steps(1, 9)
    reader = Reader(feed)
    reader.tick()
    run.begin(resumed_from=4).steps(5, 6)
    reader.tick()
    assert reader.x == [1, 2, 3, 4, 5, 6] and reader.loaded == 2
    run.steps(7, 7)
    reader.tick()
    assert reader.x[-1] == 7 and reader.loaded == 2


def test_a_half_written_line_is_sent_when_it_is_whole(lab, feed):
    run = Run(lab).begin().steps(1, 3)
    reader = Reader(feed)
    reader.tick()
    line = events.line_of(events.Step(4, metrics(4))).encode()
    with run.folder.events.open("ab") as file:
        file.write(line[:50])
        file.flush()
        reader.tick()
        assert reader.x == [1, 2, 3]
        file.write(line[50:])
    reader.tick()
    assert reader.x == [1, 2, 3, 4]


def test_a_metric_that_appears_late_makes_readers_start_over(lab, feed):
    run = Run(lab, values={"train.beta": 0.1}).begin().steps(1, 3)
    reader = Reader(feed)
    reader.tick()
    run.steps(4, 5, beta=True)
    whole = reader.tick()
    assert reader.loaded == 2
    kl = next(chart for chart in whole["charts"] if chart["key"] == "kl")
    assert reader.y[kl["lines"][0]["at"]][:3] == [None, None, None]


def test_kl_is_drawn_only_where_it_has_a_weight(lab, feed):
    Run(lab).begin().steps(1, 3, beta=True)
    keys = [chart["key"] for chart in feed.history([""])["charts"]]
    assert "kl" not in keys and {"goal", "reward", "rewards", "length", "cut", "dead", "loss",
                                 "lr"} == set(keys)
    assert keys[:3] == ["goal", "reward", "rewards"]  # what was meant comes first


def test_the_reward_has_its_band_and_each_reward_its_line(lab, feed):
    Run(lab).begin().steps(1, 3)
    whole = feed.history([""])
    by_key = {chart["key"]: chart for chart in whole["charts"]}
    low, high = by_key["reward"]["band"]
    assert whole["y"][low] == [-0.1235] * 3 and whole["y"][high] == [1.235] * 3
    assert [line["name"] for line in by_key["rewards"]["lines"]] == [
        "Tag count", "Soft format", "Strict format", "Whole number", "Right answer"]


def test_goals_and_shapes_are_told_apart(lab, feed):
    Run(lab).begin().steps(1, 3)
    by_key = {chart["key"]: chart for chart in feed.history([""])["charts"]}
    assert [line["kind"] for line in by_key["rewards"]["lines"]] == ["shape"] * 4 + ["goal"]
    assert [line["name"] for line in by_key["goal"]["lines"]] == [
        "Right", "Share of the goals' points"]


def test_a_goal_that_gives_no_part_of_its_points_has_one_line(lab, feed):
    run = Run(lab).begin()
    for step, value in enumerate((0.25, None, 0.5), 1):
        run.write(events.Step(step, {"goal/reached": value, "goal/mean": value}))
    found = feed.history([""])
    (goal,) = [chart for chart in found["charts"] if chart["key"] == "goal"]
    assert [line["name"] for line in goal["lines"]] == ["Right"]
    assert found["y"][goal["lines"][0]["at"]] == [0.25, None, 0.5]


def test_an_older_run_has_its_goal_from_the_rewards(lab, feed):
    """As its settings were kept before rewards had a kind, and its points without goal/mean."""
    run = Run(lab)
    record = json.loads(run.folder.settings.read_text())
    for chosen in record["settings"]["rewards"]["chosen"]:
        del chosen["kind"]
    run.folder.settings.write_text(json.dumps(record))
    run.begin()
    for step, mean in enumerate((0.5, 1.0, 1.5), 1):
        run.write(events.Step(step, {"rewards/correctness/mean": mean, "reward/weighted": 1.0}))
    found = feed.history([run.id])
    (goal,) = [chart for chart in found["charts"] if chart["key"] == "goal"]
    assert found["y"][goal["lines"][0]["at"]] == [0.25, 0.5, 0.75]
    assert found["detail"]["goal"]["moved"] == {
        "source": "in training", "first": 0.25, "last": 0.75, "whole": False, "step": None,
        "best": None}


def test_without_a_goal_there_is_no_chart_of_it_and_it_is_said(lab, feed):
    run = Run(lab, values={"rewards.chosen": parse_chosen("xmlcount,int")})
    run.begin().write(events.Step(1, {"rewards/int/mean": 0.5, "reward/weighted": 0.5}))
    found = feed.history([""])
    assert "goal" not in [chart["key"] for chart in found["charts"]]
    assert found["detail"]["goal"]["has"] is False and found["detail"]["goal"]["moved"] is None


def test_held_out_questions_are_points_and_what_comes_new_is_told_by_the_tick(lab, feed):
    run = Run(lab).begin().steps(1, 3)
    run.write(events.HeldOut(0, {"n": 8, "goal": 0.125, "reached": 0.125}))
    reader = Reader(feed)
    reader.tick()
    assert feed.detail([run.id])["goal"]["held_out"] == [[0, 0.125]]
    asked = feed.tick(["", run.id, 0, 3, reader.names])["asked"]
    run.write(events.HeldOut(3, {"n": 8, "goal": 0.75, "reached": 0.5}))
    run.write(events.HeldOut(5, {"n": 8, "goal": None, "reached": None}))  # nothing was judged
    assert feed.tick(["", run.id, 0, 3, reader.names])["asked"] == asked + 2
    told = feed.detail([run.id])["goal"]
    assert told["held_out"] == [[0, 0.125], [3, 0.5]]
    assert told["moved"]["source"] == "held out" and told["moved"]["step"] == 3
    for step in range(6, 3000):
        run.write(events.HeldOut(step, {"reached": 0.5}))
    shown = feed.detail([run.id])["goal"]["held_out"]
    assert len(shown) <= HELD_OUT_SHOWN + 2 and shown[0][0] == 0 and shown[-1][0] == 2999


def test_the_newest_verdict_is_shown_with_its_step(lab, feed):
    run = Run(lab).begin().steps(1, 3)
    assert feed.detail([run.id])["goal"]["verdict"] is None
    verdicts.keep(run.folder, a_verdict(12, 55, 100, step=40))
    told = feed.detail([run.id])["goal"]
    assert told["verdict"]["step"] == 40 and told["verdict"]["level"] == "good"
    assert told["verdict"]["headline"].startswith("Right on 55.0 % of 100 held-out questions")
    assert told["moved"]["last"] == 0.55 and told["moved"]["step"] == 40
    run.write(events.HeldOut(0, {"reached": 0.1}))  # asked since: other questions, not mixed
    run.write(events.HeldOut(60, {"reached": 0.6}))
    moved = feed.detail([run.id])["goal"]["moved"]
    assert (moved["first"], moved["last"], moved["step"]) == (0.1, 0.6, 60)


def test_the_wanted_run_is_shown_and_the_newest_when_it_is_gone(lab, feed):
    old, new = Run(lab, "a").begin().steps(1, 2), Run(lab, "b").begin().steps(1, 3)
    newest = max(old.id, new.id)
    assert feed.history([""])["run"] == newest
    assert feed.history([old.id])["run"] == old.id
    lab.jobs.delete(old.id)
    assert feed.history([old.id])["run"] == new.id
    assert [one["run"] for one in feed.listing(None)] == [new.id]


def test_before_the_first_step_it_says_what_it_is_busy_with(lab, feed, monkeypatch):
    run = Run(lab)
    run.write(events.Phase("loading the model"))
    monkeypatch.setattr("lab.services.runs.is_worked_on", lambda folder: True)
    reply = feed.tick(["", "", -1, 0, 0])
    assert reply["status"] == "starting" and reply["phase"] == "loading the model"


def test_the_pace_is_that_of_the_newest_steps_and_not_of_a_break(lab, feed):
    run = Run(lab)
    run.write(events.Started(100, 0, {}))
    for step in range(1, 31):
        run.write(events.Step(step, {"seconds/step": 9.0}))
    run.write(events.Started(100, 30, {}))
    for step in range(31, 51):
        run.write(events.Step(step, {"seconds/step": 3.0}))
    assert feed.tick(["", "", -1, 0, 0])["pace"] == 3.0


def test_errors_of_rewards_are_counted(lab, feed):
    run = Run(lab).begin().steps(1, 3)
    run.write(events.Step(4, metrics(4) | {"reward_errors/int": 3.0}))
    assert feed.tick(["", "", -1, 0, 0])["errors"] == 3
    assert feed.detail([""])["errors"] == {"int": 3}


def test_a_failed_run_says_what_why_and_what_next(lab, feed):
    run = Run(lab).begin().steps(1, 2)
    run.write(events.Failed(2, "It broke.", "Because.", "Mend it."))
    found = feed.history([""])
    assert found["status"] == "failed"
    assert [found["detail"]["problem"][part] for part in ("what", "why", "next")] == [
        "It broke.", "Because.", "Mend it."]


def test_a_damaged_run_is_shown_as_such(lab, feed):
    run = Run(lab).begin().steps(1, 2)
    run.folder.settings.write_text("{")
    found = feed.history([""])
    assert found["status"] == "damaged" and found["detail"]["problem"]["what"]
    assert feed.tick(["", run.id, 0, 0, 0])["status"] == "damaged"
    assert feed.listing(None)[0]["run"] == run.id


@pytest.mark.parametrize("nonsense", [
    None, [], {}, "x", 7, [None] * 5, [[]] * 5, [{}] * 5, ["../../etc/passwd"] * 5,
    ["\x00", "a", 1e308, -5, "b"], [1, 2, 3, 4, 5], ["a" * 10_000, "", True, True, True],
    ["", "", 0, 10**30, 10**30], [["a"], {"b": 1}, None, [], -1]])
def test_whoever_asks_nonsense_gets_no_error_and_no_path(lab, feed, nonsense, tmp_path):
    run = Run(lab).begin().steps(1, 3)
    run.write(events.Samples(3, [group_record("q", {}, [answer("a", 1.0)]), "no group"]))
    with gr.Blocks():
        view = LiveView(lab)
    for name in ("tick", "history", "detail", "listing"):
        reply = getattr(view, name)(nonsense)  # just what the network reaches
        assert str(tmp_path) not in json.dumps(reply)
        assert isinstance(reply, list) or reply.get("status") != "error"


def test_only_the_four_questions_can_be_asked(lab):
    with gr.Blocks():
        view = LiveView(lab)
    assert {fn.__name__ for fn in view.server_fns} == {
        "tick", "history", "detail", "listing"}


def test_the_page_takes_nothing_from_elsewhere(lab):
    with gr.Blocks():
        view = LiveView(lab)
    for text in (view.html_template, view.css_template, view.js_on_load):
        assert "http://" not in text and "https://" not in text and "`;" not in view.html_template
    assert "sendChartToCloud" in view.js_on_load and "@plotly" not in view.html_template


@pytest.mark.parametrize(("facts", "words"), [
    ({"engine": "cpu", "dtype": "float32", "processes": 1}, "TRL on the CPU, float32"),
    ({"engine": "unsloth", "gpu": "NVIDIA L4", "dtype": "nf4", "vllm_share": 0.5},
     "Unsloth + vLLM, NVIDIA L4, nf4, vLLM has 50% of the GPU"),
    ({"engine": "trl", "gpu": 7, "processes": 2}, "TRL on the GPU, 2 processes"),
    ({"engine": "unheard of"}, ""),
])
def test_what_trains_a_run_is_told_as_it_took_effect(tmp_path, facts, words):
    lab = Lab.at(tmp_path)
    run = Run(lab)
    run.write(events.Started(10, 0, facts))
    assert engine_of(lab.runs.log(run.id)) == words
