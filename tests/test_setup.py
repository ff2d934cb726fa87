"""The set-up: real runs of lab/bootstrap.py against a small package index of the test's own."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPACE_LINE = "gradio[oauth,mcp]==6.31.0\nuvicorn>=0.14.0\nwebsockets>=10.4\nspaces\n"
IN_VENV = "Scripts/python.exe" if os.name == "nt" else "bin/python"

spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "lab" / "bootstrap.py")
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)

posix = pytest.mark.skipif(os.name == "nt", reason="signals and file locks of POSIX")


# --- a package index with two small packages ------------------------------------------------------


def wheel(folder: Path, name: str, version: str, words: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"WORDS = {words!r}\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


class Index:
    """`/simple` stands for the usual index, `/cpu` for PyTorch's own; both can fail."""

    def __init__(self, folder: Path):
        self.asked: list[str] = []
        self.flowing = threading.Event()
        self.flowing.set()  # cleared: wheels do not arrive
        self.cpu_answers = True
        for name in ("simple", "cpu"):
            (folder / name).mkdir()
        wheel(folder / "simple", "torch", "2.13.0", "the build with CUDA")
        wheel(folder / "cpu", "torch", "2.13.0+cpu", "the build for CPUs")
        wheel(folder / "simple", "pebble", "1.0", "first")
        wheel(folder / "simple", "pebble", "1.1", "second")
        wheel(folder / "simple", "feather", "3.0", "only for tests")
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                index.asked.append(self.path)
                _, source, package, *file = self.path.split("/")
                if source == "cpu" and not index.cpu_answers:
                    return self.send_error(503)
                if file and file[0]:
                    index.flowing.wait()
                    body = (folder / source / file[0].replace("%2B", "+")).read_bytes()
                else:
                    wheels = sorted((folder / source).glob(f"{package}-*.whl"))
                    body = "".join(
                        f'<a href="{w.name.replace("+", "%2B")}">{w.name}</a>' for w in wheels
                    ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if not (file and file[0]) else "a/b")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index(folder)
    yield index
    index.flowing.set()
    index.server.shutdown()
    index.server.server_close()


class Tree:
    """A copy of what the set-up reads, with two small packages in place of the large ones."""

    def __init__(self, folder: Path, index_url: str):
        (folder / "lab").mkdir(parents=True)
        self.folder, self.venv = folder, folder / ".venv"
        self.log = self.venv / "setup.log"
        code = (ROOT / "lab" / "bootstrap.py").read_text()
        assert bootstrap.TORCH_CPU_INDEX in code
        code = code.replace(bootstrap.TORCH_CPU_INDEX, index_url + "/cpu")
        (folder / "lab" / "bootstrap.py").write_text(code)
        self.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==1.0")
        self.pin("requirements.txt", "torch==2.13.0", "pebble==1.0")
        self.pin("requirements-test.txt", "feather==3.0")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "STACK", "MAKE"))}
        self.environment = kept | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index_url + "/simple",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "1",
            "STACK": "cpu",
        }

    def pin(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "lab/bootstrap.py", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=os.name != "nt",
            # Where the suite runs in the background, the shell has switched Ctrl-C off.
            preexec_fn=None if os.name == "nt" else
            lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def words(self, module: str) -> str:
        command = [str(self.venv / IN_VENV), "-c", f"import {module}; print({module}.WORDS)"]
        return subprocess.check_output(command, text=True).strip()

    def wait_for(self, condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.05)


@pytest.fixture
def tree(tmp_path, index):
    return Tree(tmp_path / "tree", index.url)


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and ", because " in text and "; " in text


# --- a set-up from nothing, and the runs after it -------------------------------------------------


def test_a_set_up_takes_the_cpu_build_and_the_next_run_touches_nothing(tree, index):
    first = tree.run()
    assert (first.returncode, first.stderr) == (0, "")
    assert tree.words("pebble") == "first"
    if sys.platform == "linux":
        assert tree.words("torch") == "the build for CPUs"
    assert not (tree.venv / "setup-unfinished").exists()
    assert not (tree.venv / "tmp").exists()
    stamp = json.loads((tree.venv / "setup-done.json").read_text())
    digest = hashlib.sha256((tree.folder / "requirements-cpu.txt").read_bytes()).hexdigest()
    assert stamp["files"] == {"requirements-cpu.txt": digest}
    assert (stamp["stack"], stamp["python"]) == ("cpu", list(sys.version_info[:2]))

    before, asked = tree.log.stat().st_mtime_ns, len(index.asked)
    started = time.monotonic()
    second = tree.run()
    assert (second.returncode, second.stdout) == (0, "The cpu stack is in .venv.\n")
    assert time.monotonic() - started < 5
    assert (tree.log.stat().st_mtime_ns, len(index.asked)) == (before, asked)


def test_what_changed_is_installed_and_what_broke_is_made_again(tree, index):
    # PyTorch's own index fails: torch comes from the usual one, and that is said.
    index.cpu_answers = False
    first = tree.run()
    assert first.returncode == 0
    assert tree.words("torch") == "the build with CUDA"
    if sys.platform == "linux":
        assert first.stdout.count("PyTorch's CPU index does not answer: ") == 1
    marker = tree.venv / "made-once"
    marker.touch()

    # Another pin: pip alone, no new .venv.
    tree.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==1.1")
    assert tree.run().returncode == 0
    assert (tree.words("pebble"), marker.exists()) == ("second", True)

    # What the tests need comes on top, and the lab does not ask for it afterwards.
    assert tree.run("--tests").returncode == 0
    assert tree.words("feather") == "only for tests"
    assert tree.run().stdout == "The cpu stack is in .venv.\n"

    # A package that somebody removed by hand.
    shutil.rmtree(next(tree.venv.glob("[lL]ib/**/pebble-1.1.dist-info")))
    assert tree.run().returncode == 0
    assert (tree.words("pebble"), marker.exists()) == ("second", True)

    # No network: one sentence, and what was there still works.
    tree.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==1.0")
    offline = tree.run(PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert offline.returncode == 2
    assert is_one_sentence(offline.stderr)
    assert "could not be reached" in offline.stderr and "setup.log" in offline.stderr
    assert tree.words("pebble") == "second"

    # A package that does not exist.
    tree.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==7.7")
    nowhere = tree.run()
    assert nowhere.returncode == 2 and is_one_sentence(nowhere.stderr)
    assert "there is no pebble==7.7 for" in nowhere.stderr

    # No pip: a new .venv.
    shutil.rmtree(next(tree.venv.glob("[lL]ib/**/site-packages/pip")))
    tree.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==1.0")
    again = tree.run()
    assert again.returncode == 0 and "afresh, because it has no pip" in again.stdout
    assert (tree.words("pebble"), marker.exists()) == ("first", False)


def test_an_index_that_hangs_costs_a_few_seconds(monkeypatch):
    import socket

    monkeypatch.setattr(bootstrap, "INDEX_PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not bootstrap.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - started < 4


# --- interruptions --------------------------------------------------------------------------------


@posix
def test_an_interrupted_set_up_is_made_again(tree, index):
    def start_and_wait_for_a_download():
        index.asked.clear()
        process = tree.start()
        tree.wait_for(lambda: any(path.endswith(".whl") for path in index.asked))
        return process

    # Killed: its pip works on for a while, and nobody else may touch .venv until it is gone.
    index.flowing.clear()
    process = start_and_wait_for_a_download()
    process.kill()
    process.communicate()
    second = tree.run()
    assert second.returncode == 2 and is_one_sentence(second.stderr)
    assert "another set-up is at work" in second.stderr
    index.flowing.set()
    tree.wait_for(lambda: tree.run().returncode == 0)
    assert tree.words("pebble") == "first"

    # Ctrl-C, which reaches pip as well.
    index.flowing.clear()
    tree.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==1.1")
    process = start_and_wait_for_a_download()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == "\nStopped. The same command starts the set-up again.\n"

    index.flowing.set()
    repaired = tree.run()
    assert repaired.returncode == 0
    assert "an earlier set-up did not reach its end" in repaired.stdout
    assert tree.words("pebble") == "second"


# --- what is missing is said in one sentence ------------------------------------------------------


def test_an_unknown_stack_is_refused(tree):
    done = tree.run(STACK="nonsense")
    assert done.returncode == 2 and is_one_sentence(done.stderr)
    assert "'nonsense'" in done.stderr and "cpu and gpu" in done.stderr
    assert not tree.venv.exists()


def test_the_gpu_stack_is_refused_without_a_driver(tree, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = tree.run(STACK="gpu", PATH=str(empty))
    assert done.returncode == 2 and is_one_sentence(done.stderr)
    assert "leave STACK out" in done.stderr
    assert not tree.venv.exists()


def test_a_venv_that_is_none_is_left_alone(tree):
    tree.venv.write_text("mine")
    done = tree.run()
    assert done.returncode == 2 and is_one_sentence(done.stderr)
    assert tree.venv.read_text() == "mine"
    tree.venv.unlink()
    tree.venv.mkdir()
    (tree.venv / "notes.txt").write_text("mine")
    assert tree.run().returncode == 2
    assert [path.name for path in tree.venv.iterdir()] == ["notes.txt"]


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tree):
    tree.folder.chmod(0o555)
    try:
        done = tree.run()
    finally:
        tree.folder.chmod(0o755)
    assert done.returncode == 2 and is_one_sentence(done.stderr)
    assert ".venv: Permission denied" in done.stderr


def test_a_full_disk_is_refused_before_anything_is_installed():
    with pytest.raises(bootstrap.Problem, match=r"about 3 GB of disk and 1\.2 GB are free"):
        bootstrap.refuse_full_disk("cpu", 1.2e9)
    with pytest.raises(bootstrap.Problem, match="about 16 GB"):
        bootstrap.refuse_full_disk("gpu", 14e9)
    bootstrap.refuse_full_disk("cpu", 4e9)


def test_the_first_right_python_that_can_make_a_venv_is_chosen():
    old, new = [[3, 9], "/old", True], [[3, 14], "/new", True]
    right, bare = [[3, 12], "/right", True], [[3, 11], "/bare", False]
    assert bootstrap.choose_python([old, right, bare]) == "/right"
    assert bootstrap.choose_python([bare, new, right]) == "/right"
    with pytest.raises(bootstrap.Problem, match=r"this is 3\.14, and PATH has none"):
        bootstrap.choose_python([new, old])
    with pytest.raises(bootstrap.Problem, match=r"/bare comes without .*python3\.11-venv"):
        bootstrap.choose_python([old, bare])


def test_the_python_of_a_venv_leads_to_the_one_below_it():
    # Else a set-up started from the activated .venv would remove the Python it needs.
    _, executable, _ = bootstrap.probe_python([sys.executable])
    base = Path(getattr(sys, "_base_executable", sys.executable))
    assert Path(executable).resolve() == base.resolve()
    assert bootstrap.probe_python(["/no/such/python"]) is None


def test_it_can_be_read_by_the_python_that_it_turns_away():
    import ast

    code = (ROOT / "lab" / "bootstrap.py").read_text()
    ast.parse(code, feature_version=(3, 6))
    # Names that came after 3.6; subscripted built-in types would be another case.
    assert not re.search(r"capture_output|text=True|removeprefix|list\[|dict\[|annotations", code)


@pytest.mark.parametrize(
    ("system", "machine", "answer", "possible", "reason"),
    [
        ("Linux", "x86_64", "580.95.05, 8.9\n", True, "driver is 580"),
        ("Linux", "x86_64", "590.10, 7.0\n590.10, 9.0\n", True, "driver is 590"),
        ("Linux", "x86_64", "535.183.01, 8.9\n", False, "driver is 535 and CUDA 13 needs 580"),
        ("Linux", "x86_64", "580.95.05, 7.0\n", False, "capability 7.0 and CUDA 13 needs 7.5"),
        ("Linux", "x86_64", None, False, "no NVIDIA GPU"),
        ("Linux", "x86_64", "No devices were found\n", False, "no NVIDIA GPU"),
        ("Linux", "aarch64", "580.95.05, 12.1\n", False, "Linux on aarch64"),
        ("Windows", "AMD64", "581.15, 8.9\n", False, "Windows on AMD64"),
        ("Darwin", "arm64", None, False, "Darwin on arm64"),
    ],
)
def test_the_stack_follows_from_what_the_machine_has(system, machine, answer, possible, reason):
    verdict, why = bootstrap.gpu_stack_possible(system, machine, answer)
    assert verdict is possible and reason in why


def test_the_stack_in_venv_stays_until_another_is_asked_for(monkeypatch):
    monkeypatch.setattr(bootstrap, "ask_nvidia_smi", lambda: None)
    assert bootstrap.settle_stack("", {})[0] == "cpu"
    # A driver that fails for a day must not cost 10 GB of packages.
    assert bootstrap.settle_stack("", {"stack": "gpu"})[0] == "gpu"
    assert bootstrap.settle_stack("cpu", {"stack": "gpu"})[0] == "cpu"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space",
            "disk is full",
        ),
        (
            "WARNING: Retrying after connection broken by 'x'\n"
            "ERROR: No matching distribution found for torch==2.13.0 (from versions: none)",
            "could not be reached",
        ),
        ("ERROR: No matching distribution found for torch==2.13.0\n", "there is no torch==2.13.0"),
        ("ERROR: Cannot install a and b\n", "pip says: Cannot install a and b"),
        ("Killed\n", "nothing that names a cause"),
    ],
)
def test_a_failed_pip_is_explained(log, reason):
    sentence = str(bootstrap.explain_pip(log))
    assert reason in sentence and is_one_sentence(sentence + "\n")


def test_a_missing_browser_is_said(monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    monkeypatch.setattr(bootstrap, "BROWSER_PATHS", ())
    with pytest.raises(bootstrap.Problem, match="neither Chromium nor Google Chrome"):
        bootstrap.see_to_browser()


# --- the requirements files -----------------------------------------------------------------------


def test_every_requirement_is_one_exact_version():
    for name in ("requirements.txt", "requirements-cpu.txt", "requirements-test.txt"):
        lines = (ROOT / name).read_text().splitlines()
        wanted = [line for line in lines if line and not line.startswith("#")]
        assert len(bootstrap.pins(name)) == len(wanted) > 0, name


def test_both_stacks_name_the_same_versions_but_for_torch():
    cpu, gpu = bootstrap.pins("requirements-cpu.txt"), bootstrap.pins("requirements.txt")
    differing = {name for name in cpu if name in gpu and cpu[name] != gpu[name]}
    assert differing == {"torch"}
    assert set(cpu) <= set(gpu)


def resolve(python: str, platform: str, *files: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"]
    command += ["--python-version", python, "--python-platform", platform]
    return subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_gpu_stack_resolves_with_what_a_space_adds(python, tmp_path):
    space = tmp_path / "space.in"
    space.write_text(SPACE_LINE)
    done = resolve(python, "x86_64-manylinux_2_28", ROOT / "requirements.txt", space)
    assert done.returncode == 0, done.stderr
    assert "vllm==0.26.0" in done.stdout and "spaces==" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize(
    "platform",
    ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "x86_64-pc-windows-msvc"],
)
def test_the_cpu_stack_resolves_with_its_tests(python, platform):
    files = ROOT / "requirements-cpu.txt", ROOT / "requirements-test.txt"
    done = resolve(python, platform, *files)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_make_setup_takes_a_fresh_copy_to_an_importable_stack(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements-cpu.txt", "requirements-test.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "lab").mkdir()
    shutil.copy(ROOT / "lab" / "bootstrap.py", tmp_path / "lab")
    environment = os.environ | {"STACK": "cpu"}
    subprocess.run(["make", "setup"], cwd=tmp_path, env=environment, check=True, timeout=1500)
    code = "import torch, trl, gradio; print(torch.__version__)"
    command = [str(tmp_path / ".venv" / IN_VENV), "-c", code]
    version = subprocess.check_output(command, text=True, timeout=300)
    assert version.startswith(bootstrap.pins("requirements-cpu.txt")["torch"])
