"""What the live view's browser side may ask: rows and nothing twice, few bytes, whoever asks."""

import json
import random
import time

import gradio as gr
import pytest

from lab.core import events
from lab.core.metrics import group_record
from lab.core.settings import Settings
from lab.services.lab import Lab
from lab.ui.live import BUDGET, MOST_BEHIND, Feed, LiveView, engine_of

REWARDS = ("xmlcount", "soft_format", "strict_format", "int", "correctness")
KIB = 1024


def metrics(step: int, beta: bool = False) -> dict[str, float]:
    """As many as a real run has: the trainer's names and ours."""
    chance = random.Random(step)
    found = {"reward/weighted": step / 7000, "reward/low": -0.12345678, "reward/high": 1.2345678,
             "reward/within_group_std": 0.5, "groups/dead": 0.25, "groups/dead_right": 0.125,
             "groups/dead_wrong": 0.125, "completions/mean_length": 123.456789,
             "completions/clipped_ratio": 0.0625, "loss": -1.2345e-05, "learning_rate": 4.98765e-06}
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
    assert feed.listing([]) == [] and feed.groups(["", None]) == {"run": ""}


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
    assert "kl" not in keys and {"reward", "rewards", "length", "cut", "dead", "loss",
                                 "lr"} == set(keys)


def test_the_reward_has_its_band_and_each_reward_its_line(lab, feed):
    Run(lab).begin().steps(1, 3)
    whole = feed.history([""])
    by_key = {chart["key"]: chart for chart in whole["charts"]}
    low, high = by_key["reward"]["band"]
    assert whole["y"][low] == [-0.1235] * 3 and whole["y"][high] == [1.235] * 3
    assert [line["name"] for line in by_key["rewards"]["lines"]] == [
        "Tag count", "Soft format", "Strict format", "Whole number", "Right answer"]


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
    monkeypatch.setattr("lab.services.runs.worker_of", lambda folder: object())
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


def test_groups_come_best_answer_first_with_scores_and_errors(lab, feed):
    run = Run(lab).begin()
    for step in (1, 2, 3):
        run.steps(step, step)
        run.write(events.Samples(step, [group_record(
            "2 + 2?", {"answer": 4}, [answer("<b>5</b>", -1.0), answer("4", 1.0)])]))
    found = feed.groups([run.id, None])
    assert (found["step"], found["before"], found["after"]) == (3, 2, None)
    group = found["groups"][0]
    assert group["prompt"] == "2 + 2?" and group["reference"] == "4"
    assert [a["text"] for a in group["answers"]] == ["4", "<b>5</b>"]
    assert group["answers"][0]["rewards"] == {"int": 0.5, "correctness": None}
    assert "ValueError" in group["answers"][0]["errors"]["correctness"]
    assert feed.groups([run.id, 1])["after"] == 2
    assert feed.groups([run.id, 7])["groups"] == []


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
    for name in ("tick", "history", "detail", "groups", "listing"):
        reply = getattr(view, name)(nonsense)  # just what the network reaches
        assert str(tmp_path) not in json.dumps(reply)
        assert isinstance(reply, list) or reply.get("status") != "error"


def test_only_the_five_questions_can_be_asked(lab):
    with gr.Blocks():
        view = LiveView(lab)
    assert {fn.__name__ for fn in view.server_fns} == {
        "tick", "history", "detail", "groups", "listing"}


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
