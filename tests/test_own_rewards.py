"""Rewards of one's own, scored in real limited children: both forms, failures, isolation, runs."""

import json
import pickle
import shutil
import subprocess
import sys
import zipfile

import pytest

from lab.core.problems import BadSettings, RunError
from lab.core.rewards import own, permission
from lab.core.rewards.chosen import Chosen, parse_chosen
from lab.core.rewards.registry import REWARDS
from lab.core.rewards.scoring import BatchReward, score, score_all
from lab.core.settings import Settings
from lab.services.export import adapter_zip
from lab.services.lab import Lab
from lab.services.own_rewards import dry_run, keep_upload
from lab.services.workspace import PROJECT

OWN = '''
import os
from typing import Annotated

from lab.core.rewards import Knob, final_answer, reward


@reward("Short", max_score=1.0, kind="shape")
def short(completion, *, limit: Annotated[int, Knob("Limit", "Characters.", low=1)] = 10):
    """1 when it is no longer than the limit."""
    print("looked at", len(completion), os.environ.get("HF_TOKEN"))
    return float(len(completion) <= limit)


@reward("Right", max_score=2.0)
def right(completion, answer):
    if completion == "raise":
        return below(completion)
    if completion == "hang":
        while True:
            pass
    if completion == "die":
        os._exit(3)
    if completion == "text":
        return "good"
    return {"none": None, "nan": float("nan"), "big": 10**400}.get(
        completion, 2.0 if final_answer(completion) == answer else 0.0)


def below(text):
    return 1 / len(text[5:])


def tidy(completions, level=None, **kwargs):
    """TRL's form."""
    assert set(kwargs) >= {"prompts", "answer", "log_metric"}
    return [1.0 if not c[0]["content"].endswith(" ") else 0.0 for c in completions]


async def later(completions, prompts, **kwargs):
    import asyncio
    await asyncio.sleep(0.01)
    return [len(prompt[-1]["content"]) / 100 for prompt in prompts]


@reward("Each later", max_score=1.0)
async def each(completion, answer):
    if completion == "raise":
        raise LookupError("not there")
    return 1.0
'''


def line_of(words: str) -> int:
    return OWN[:OWN.index(words)].count("\n") + 1


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv(permission.VARIABLE, "1")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return str(path)


def test_every_form_scores_as_it_is_written(file):
    chosen = parse_chosen("short:limit=3,right,tidy,later,each,correctness", file)
    assert [(one.takes_as, one.best) for one in chosen] == [
        ("shape", 1.0), ("goal", 2.0), ("goal", 1.0), ("goal", 1.0), ("goal", 1.0), ("goal", 2.0)]
    row = {"question": "1234567890", "answer": "4"}
    good, bad = score_all(["4", "wrong "], [row, row], chosen)
    assert good.errors == bad.errors == {}
    assert good.rewards == {"short": 1.0, "right": 2.0, "tidy": 1.0, "later": 0.1, "each": 1.0,
                            "correctness": 2.0}
    assert list(bad.rewards.values()) == [0.0, 0.0, 0.0, 0.1, 1.0, 0.0]
    assert good.total == pytest.approx(7.1) and score("4", row, chosen) == good


def test_one_answer_that_fails_costs_the_others_nothing(file):
    texts = ["4", "raise", "hang", "4", "die", "text", "none", "nan", "big", "4"]
    rows = [{"question": "?", "answer": "4"}] * len(texts)
    found = score_all(texts, rows, parse_chosen("right,each", file))
    assert [one.rewards["right"] for one in found] == [
        2.0, None, None, 2.0, None, None, None, None, None, 2.0]
    told = [one.errors.get("right", "") for one in found]
    assert told[1] == ("right failed: ZeroDivisionError: division by zero "
                       f"(line {line_of('return 1 /')}: return 1 / len(text[5:]))")
    assert "did not end within 5 s" in told[2]
    assert "ended by itself with status 3" in told[4]
    assert "returned str, not a number" in told[5]
    assert told[6] == ""  # it cannot be judged, which is no error
    assert "not a finite number" in told[7] and "OverflowError" in told[8]
    assert [bool(one.errors.get("each")) for one in found] == [text == "raise" for text in texts]
    assert all(one.total is None for one in found if one.errors)


def test_a_batch_function_that_fails_is_an_error_of_each_and_hints_at_trls_form(tmp_path):
    (tmp_path / "plain.py").write_text(
        "import re\ndef digits(completions, **kwargs):\n"
        "    return [float(bool(re.search('[0-9]', c))) for c in completions]\n"
        "def few(completions, **kwargs):\n    return [1.0]\n"
        "def ids(completions, completion_ids, **kwargs):\n"
        "    return [float(len(i)) for i in completion_ids]\n")
    chosen = parse_chosen("digits,few,ids", str(tmp_path / "plain.py"))
    for one in score_all(["1", "2"], [{}, {}], chosen):
        assert "line 3:" in one.errors["digits"] and "completion[0]['content']" in \
            one.errors["digits"]
        assert "1 scores for 2 completions" in one.errors["few"]
        assert "'completion_ids', which is not there outside of training" in one.errors["ids"]
    in_training = BatchReward(chosen[2])
    assert in_training([[], []], [[{"role": "assistant", "content": "x"}]] * 2,
                       completion_ids=[[1, 2], [3]]) == [2.0, 1.0]


def test_a_file_that_cannot_be_imported_says_why_and_where(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_package\ndef a(completions, **k): ...\n")
    (tmp_path / "loop.py").write_text("import os\nos._exit(1)\ndef a(completions, **k): ...\n")
    said = score("x", {}, parse_chosen("a", str(tmp_path / "bad.py"))).errors["a"]
    assert said == ("bad.py cannot be imported: ModuleNotFoundError: No module named "
                    "'no_such_package' (line 1: import no_such_package)")
    assert "ended by itself with status 1" in score(
        "x", {}, parse_chosen("a", str(tmp_path / "loop.py"))).errors["a"]


def test_two_files_with_the_same_names_do_not_meet(tmp_path):
    files = []
    for value in (0.25, 0.5):
        files.append(tmp_path / f"{value}.py")
        files[-1].write_text(f"def same(completions, **k): return [{value}] * len(completions)\n"
                             f"same.max_score = {value}\n")
    one, other = (parse_chosen("same", str(path)) for path in files)
    assert one != other
    for _ in range(2):
        assert score("x", {}, one).rewards == {"same": 0.25}
        assert score("x", {}, other).rewards == {"same": 0.5}
    assert (one[0].best, other[0].best) == (0.25, 0.5)
    with pytest.raises(ValueError, match="There is no reward 'same'"):
        parse_chosen("same")
    assert "same" not in REWARDS


def test_what_was_chosen_stays_what_it_was_when_the_file_changes(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def a(completions, **k): return [0.25] * len(completions)\n")
    chosen = parse_chosen("a", str(path))
    assert score("x", {}, chosen).total == 0.25
    path.write_text("def a(completions, **k): return [0.75] * len(completions)\n")
    assert score("x", {}, chosen).total == 0.25
    assert score("x", {}, parse_chosen("a", str(path))).total == 0.75


def test_a_batch_reward_travels_to_another_process(file):
    batch = pickle.loads(pickle.dumps(BatchReward(parse_chosen("right", file)[0])))
    assert batch([[]], ["4"], answer=["4"]) == [2.0] and batch.error_count == 0
    assert batch([[]], ["raise"], answer=["4"]) == [None] and batch.failed == [True]


def test_settings_carry_the_file_and_bind_their_choice_to_it(file):
    settings = Settings().with_values({"rewards.file": file,
                                       "rewards.chosen": [{"name": "right", "weight": 2.0},
                                                          {"name": "int"}]})
    assert [one.name for one in settings.rewards.own] == ["right"]
    tree = json.loads(json.dumps(settings.to_dict()))
    assert tree["rewards"]["chosen"][0] == {"name": "right", "weight": 2.0, "params": {},
                                            "kind": "goal"}
    assert Settings.from_dict(tree) == settings
    with pytest.raises(BadSettings, match="There is no reward 'right'. There are xmlcount"):
        Settings().with_values({"rewards.chosen": [{"name": "right"}]})
    with pytest.raises(BadSettings, match="mine.py cannot be read"):
        Settings.from_dict({"rewards": {"file": file[:-7] + "/no/mine.py",
                                        "chosen": [{"name": "right"}]}})


def test_nothing_runs_where_code_is_off(file, monkeypatch):
    chosen = parse_chosen("right", file)
    monkeypatch.delenv(permission.VARIABLE)
    assert "Reward code is off here." in score("4", {"answer": "4"}, chosen).errors["right"]
    with pytest.raises(BadSettings, match="code is off"):
        dry_run(own.read(file), [{"question": "?", "answer": "4"}])
    monkeypatch.setenv(permission.VARIABLE, "1")
    monkeypatch.setattr(permission.caller, "may", lambda: False)
    assert "Only the owner" in score("4", {"answer": "4"}, chosen).errors["right"]


def test_the_dry_run_scores_real_rows_and_shows_the_persons_own_lines(file, tmp_path):
    tried, printed = dry_run(own.read(file), [{"question": "2 + 2?", "answer": "4"}] * 5)
    assert len(tried) == 5 * 3 * 3  # rewards, rows, answers
    assert [t.score for t in tried if t.reward == "right"][:3] == [2.0, 0.0, 0.0]
    assert "looked at" in printed and not any(t.error for t in tried)
    failing = OWN.replace('if completion == "raise"', 'if completion == ""', 1)
    tried, _ = dry_run(own.source_of("mine.py", failing), [{"question": "?", "answer": "4"}])
    failed, = [t for t in tried if t.error]
    assert failed.lines == (
        f"line {line_of('return below')}, in right: return below(completion)",
        f"line {line_of('return 1 /')}, in below: return 1 / len(text[5:])")


def test_an_upload_is_kept_under_a_plain_name(tmp_path):
    first = keep_upload(OWN, "../../My rewards!.py", tmp_path / "kept")
    assert first.parent == tmp_path / "kept" and first.name.startswith("My-rewards-")
    assert keep_upload(OWN, "../../My rewards!.py", tmp_path / "kept") == first
    assert keep_upload(OWN + "\n", "My rewards.py", tmp_path / "kept") != first
    with pytest.raises(BadSettings, match="Line 1: This is no Python"):
        keep_upload("def (", "x.py", tmp_path / "kept")


# a real run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(lab, run id, the file) of a run that was trained with a file that has since changed."""
    from lab.core.catalog import RECIPES
    from tests.conftest import QUICK

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(permission.VARIABLE, "1")
        patch.setenv("HF_TOKEN", "hf_secret")
        root = tmp_path_factory.mktemp("own")
        path = root / "mine.py"
        path.write_text(OWN)
        lab = Lab.at(root / "runs")
        folder = lab.jobs.start(RECIPES["starter"].settings().with_values({
            **QUICK, "train.max_steps": 2, "train.save_steps": 1, "data.held_out": 4,
            "rewards.file": str(path),
            "rewards.chosen": parse_chosen("short:limit=60,right:weight=2,tidy,int", str(path))}))
        path.write_text("raise SystemExit\n")
        run = lab.jobs.wait(folder.id)
        assert run.status == "finished", folder.log.read_text()
        yield lab, folder.id
        lab.chat.close()


def test_a_run_learns_from_own_rewards_in_one_child(trained):
    lab, run_id = trained
    log = lab.runs.log(run_id)
    for name in ("short", "right", "tidy", "int"):
        assert log.mean(f"reward_errors/{name}") == 0
        assert log.mean(f"rewards/{name}/mean") is not None
    _, groups = log.groups_at()
    for answer in (answer for group in groups for answer in group["answers"]):
        assert answer["rewards"]["short"] == float(len(answer["text"]) <= 60)
        assert answer["total"] == pytest.approx(sum(
            answer["rewards"][name] * weight
            for name, weight in {"short": 1, "right": 2, "tidy": 1, "int": 1}.items()))


def test_its_folder_has_the_file_and_all_that_comes_later_uses_it(trained, tmp_path):
    from lab.services.evaluate import evaluate

    lab, run_id = trained
    run = lab.runs.get(run_id)
    assert run.folder.rewards.read_text() == OWN
    assert run.record["rewards_file"]["name"] == "mine.py"
    assert run.settings.rewards.file == str(run.folder.rewards)
    assert "hf_secret" not in run.folder.log.read_text()
    told = evaluate(run, n=4)
    assert told["n"] == 4 and told["base"]["rewards"]["tidy"] is not None
    with zipfile.ZipFile(adapter_zip(run.folder, None, tmp_path / "out.zip")) as archive:
        assert archive.read("rewards.py").decode() == OWN
        card = archive.read("README.md").decode()
    for reward in ("short:limit=60", "right:weight=2.0", "tidy", "int"):
        assert reward in card
    assert run.record["rewards_file"]["sha256"] in card and "nothing in it is code" not in card


def test_it_can_be_moved_resumed_and_forked(trained, tmp_path):
    lab, run_id = trained
    shutil.copytree(lab.workspace.root, tmp_path / "elsewhere")
    moved = Lab.at(tmp_path / "elsewhere")
    run = moved.runs.get(run_id)
    assert run.settings.rewards.file == str(tmp_path / "elsewhere" / run_id / "rewards.py")
    moved.jobs.resume(run_id, 3)
    ended = moved.jobs.wait(run_id)
    assert ended.status == "finished" and ended.step == 3, run.folder.log.read_text()
    assert ended.record["rewards_file"] == run.record["rewards_file"]
    fork = moved.jobs.start(ended.settings.with_values({"train.max_steps": 1}))
    assert moved.jobs.wait(fork.id).status == "finished"
    assert fork.rewards.read_text() == OWN
    # A changed file is refused, and the rest of the run stays what it is.
    fork.rewards.write_text(OWN + "\n")
    with pytest.raises(RunError, match="was changed since its start"):
        moved.jobs.resume(fork.id, 2)
    # Without its file the run is told to be damaged, and why.
    fork.rewards.unlink()
    lost = moved.runs.get(fork.id)
    assert lost.status == "damaged" and "rewards.py cannot be read" in str(lost.problem)


def test_without_permission_neither_start_nor_resume_nor_eval(trained, quick, file, monkeypatch):
    from lab.services.evaluate import evaluate

    lab, run_id = trained
    monkeypatch.delenv(permission.VARIABLE)
    before = lab.workspace.folders()
    for work in (lambda: lab.jobs.start(quick.with_values({
                     "rewards.file": file, "rewards.chosen": parse_chosen("right", file)})),
                 lambda: lab.jobs.resume(run_id, 5), lambda: evaluate(lab.runs.get(run_id), n=2)):
        with pytest.raises(BadSettings, match="code, and that is off here. Start it with --allow"):
            work()
    assert lab.workspace.folders() == before


def test_what_cannot_be_imported_or_lacks_its_column_is_refused_before_the_start(
        lab, quick, tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_package\ndef a(completions, **k): ...\n"
                                     "def b(completions, topic, **k): ...\n")
    for name, words in (("a", "no_such_package"), ("b", "needs the column 'topic'")):
        with pytest.raises(Exception, match=words):
            lab.jobs.start(quick.with_values({
                "rewards.file": str(tmp_path / "bad.py"),
                "rewards.chosen": parse_chosen(name, str(tmp_path / "bad.py"))}))
    assert lab.workspace.folders() == []


# the commands


def command(*words, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lab", *map(str, words)], cwd=PROJECT,
                          capture_output=True, text=True, **more)


def test_rewards_lists_all_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(permission.VARIABLE)
    trap = tmp_path / "trap"
    (tmp_path / "mine.py").write_text(OWN + f"\nopen({str(trap)!r}, 'w')\n")
    done = command("rewards", "--rewards-file", tmp_path / "mine.py", "--json")
    assert done.returncode == 0, done.stderr
    told = {one["name"]: one for one in json.loads(done.stdout.splitlines()[-1])["rewards"]}
    assert all(set(one) == {"name", "label", "kind", "max_score", "needs", "params", "help",
                            "source"} for one in told.values())
    assert told["correctness"]["kind"] == "goal" and told["correctness"]["source"] == "built in"
    assert told["correctness"]["needs"] == ["completion", "answer"]
    assert told["strict_format"]["params"]["multiline"]["default"] is True
    assert told["short"]["params"]["limit"] == {"type": "int", "default": 10, "label": "Limit",
                                                "help": "Characters.", "low": 1}
    assert told["tidy"]["source"] == "mine.py" and not trap.exists()
    words = command("rewards", "--rewards-file", tmp_path / "mine.py").stdout
    assert "short  (shape, at most 1, from mine.py)" in words and "limit=10" in words


@pytest.mark.parametrize("text, code, words", [
    (None, 1, "cannot be read"),
    ("def broken(:", 2, "Line 1: This is no Python"),
    (OWN, 2, "runs code, and that is off here. Start it with --allow-code"),
])
def test_a_file_that_may_not_or_cannot_be_used_is_a_sentence(tmp_path, monkeypatch, text, code,
                                                             words):
    monkeypatch.delenv(permission.VARIABLE)
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    (tmp_path / "rows.jsonl").write_text('{"completion": "4", "answer": "4"}\n')
    done = command("score", tmp_path / "rows.jsonl", "--rewards-file", tmp_path / "mine.py")
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name, text", [
    ("rows.jsonl", '{"completion": [{"role": "assistant", "content": "4"}], "answer": "4"}\n'),
    ("rows.csv", "completion,answer\n4,4\n"),
    ("rows.json", '[{"completion": "4", "answer": "4"}]'),
])
def test_score_takes_own_rewards_beside_the_labs(tmp_path, file, monkeypatch, name, text):
    monkeypatch.delenv(permission.VARIABLE)
    (tmp_path / name).write_text(text)
    done = command("score", tmp_path / name, "--rewards-file", file, "--allow-code", "--rewards",
                   "right:weight=0.5,correctness", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["rewards"] == {"right": 2.0, "correctness": 2.0} and row["total"] == 3.0


def test_train_wants_them_named(tmp_path, file):
    done = command("train", "--root", tmp_path / "runs", "--rewards-file", file, "--allow-code")
    assert done.returncode == 2
    assert "None of the rewards of your file is chosen." in done.stderr
    assert "mine.py has short, right, tidy, later, each." in done.stderr


def test_chosen_without_a_file_is_as_before():
    assert Chosen("int").file == "" and Chosen("int", file="x").bound_to("x").file == ""
