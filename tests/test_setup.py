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
        self.cpu_flowing = threading.Event()
        self.cpu_flowing.set()
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
                if source == "cpu":
                    index.cpu_flowing.wait()
                    if not index.cpu_answers:
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
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # who was killed does not read to the end
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    index = Index(folder)
    yield index
    index.flowing.set()
    index.cpu_flowing.set()
    index.server.shutdown()
    index.server.server_close()


class Tree:
    """A copy of what the set-up reads, with two small packages in place of the large ones."""

    def __init__(self, folder: Path, index_url: str, uv: bool):
        (folder / "lab").mkdir(parents=True)
        self.folder, self.venv = folder, folder / ".venv"
        code = (ROOT / "lab" / "bootstrap.py").read_text()
        assert bootstrap.TORCH_CPU_INDEX in code
        code = code.replace(bootstrap.TORCH_CPU_INDEX, index_url + "/cpu")
        code = code.replace("INDEX_PATIENCE = 6", "INDEX_PATIENCE = 1")
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
            "UV_DEFAULT_INDEX": index_url + "/simple",
            "UV_NO_CACHE": "1",
            "UV_NO_CONFIG": "1",
            "UV_HTTP_RETRIES": "0",
            "STACK": "cpu",
        }
        if uv:
            folder = folder.parent / "uv-on-path"
            folder.mkdir()
            (folder / "uv").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m uv "$@"\n')
            (folder / "uv").chmod(0o755)
            self.environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

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
    """uv is on PATH: its steps are the same as pip's, and take a tenth of the time."""
    return Tree(tmp_path / "tree", index.url, uv=True)


@pytest.fixture
def pip_tree(tmp_path, index):
    assert not shutil.which("uv"), "the machine of these tests has one of its own"
    return Tree(tmp_path / "tree", index.url, uv=False)


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and ", because " in text and "; " in text


# --- a set-up from nothing, and the runs after it -------------------------------------------------


@pytest.mark.parametrize("installer", ["tree", "pip_tree"])
def test_a_set_up_takes_the_cpu_build_and_the_next_run_touches_nothing(installer, index, request):
    tree = request.getfixturevalue(installer)
    first = tree.run()
    assert first.returncode == 0, first.stderr
    assert ("Prepared 1 package" in first.stderr) is (installer == "tree")  # uv's own words
    assert tree.words("pebble") == "first"
    if sys.platform == "linux":
        assert tree.words("torch") == "the build for CPUs"
    assert not (tree.venv / "setup-unfinished").exists()
    assert not (tree.venv / "tmp").exists()
    stamp = json.loads((tree.venv / "setup-done.json").read_text())
    digest = hashlib.sha256((tree.folder / "requirements-cpu.txt").read_bytes()).hexdigest()
    assert stamp["files"] == {"requirements-cpu.txt": digest}
    assert (stamp["stack"], stamp["python"]) == ("cpu", list(sys.version_info[:2]))

    before, asked = (tree.venv / "setup-done.json").stat().st_mtime_ns, len(index.asked)
    second = tree.run()
    assert (second.returncode, second.stdout) == (0, "The cpu stack is in .venv.\n")
    assert ((tree.venv / "setup-done.json").stat().st_mtime_ns, len(index.asked)) == (before, asked)


def test_what_changed_is_installed_and_what_broke_is_made_again(tree, index):
    # PyTorch's own index fails: torch comes from the usual one, and that is said.
    index.cpu_answers = False
    first = tree.run()
    assert first.returncode == 0
    assert tree.words("torch") == "the build with CUDA"
    if sys.platform == "linux":
        assert first.stdout.count("PyTorch's CPU index does not deliver: ") == 1
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

    # No network: the installer's words and one sentence, and what was there still works.
    tree.pin("requirements-cpu.txt", "torch==2.13.0", "pebble==1.0")
    for _ in range(2):  # nor is it removed the next time
        offline = tree.run(UV_DEFAULT_INDEX="http://127.0.0.1:9/simple")
        assert offline.returncode == 2
        assert is_one_sentence(offline.stderr.splitlines(keepends=True)[-1])
        assert "127.0.0.1:9" in offline.stderr
        assert (tree.words("pebble"), marker.exists()) == ("second", True)

    # Stopped inside a package: a new .venv.
    next(tree.venv.glob("[lL]ib/**/pebble-1.1.dist-info/RECORD")).unlink()
    assert tree.run(UV_DEFAULT_INDEX="http://127.0.0.1:9/simple").returncode == 2
    again = tree.run()
    assert again.returncode == 0 and "did not reach its end" in again.stdout
    assert (tree.words("pebble"), marker.exists()) == ("first", False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the usual torch is the small one")
def test_an_index_that_hangs_costs_a_few_seconds(pip_tree, index):
    index.cpu_flowing.clear()
    done = pip_tree.run()
    assert done.returncode == 0 and "CPU index does not deliver" in done.stdout
    assert pip_tree.words("torch") == "the build with CUDA"


# --- interruptions --------------------------------------------------------------------------------


@posix
def test_an_interrupted_set_up_is_made_again(tree, index):
    def start_and_wait_for_a_download():
        index.asked.clear()
        process = tree.start()
        tree.wait_for(lambda: any(
            path.startswith("/simple") and path.endswith(".whl") for path in index.asked))
        return process

    # Killed: its pip works on for a while, and nobody else may touch .venv until it is gone.
    index.flowing.clear()
    process = start_and_wait_for_a_download()
    process.kill()
    process.wait()
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
    assert err.endswith("\nStopped. The same command starts the set-up again.\n")

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


def test_the_first_right_python_makes_the_venv(tmp_path, monkeypatch, capsys):
    """This one if it is right; else one on PATH that starts, which a version manager's may not."""
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    base = getattr(sys, "_base_executable", sys.executable)
    assert bootstrap.command_for_venv("-")[0] == base
    wrong, shim, right = tmp_path / "wrong", tmp_path / "python3.12", tmp_path / "python3.13"
    for path, words in ((wrong, "echo '[3, 9]'"), (shim, "exit 127"), (right, "echo '[3, 13]'")):
        path.write_text(f"#!/bin/sh\n{words}\n")
        path.chmod(0o755)
    monkeypatch.setattr(bootstrap.sys, "_base_executable", str(wrong))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.command_for_venv("-")[0] == "python3.13"
    right.unlink()
    with pytest.raises(SystemExit):
        bootstrap.command_for_venv("-")
    assert "PATH has none of them" in capsys.readouterr().err


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


def test_a_missing_browser_is_said(tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    done = subprocess.run([sys.executable, ROOT / "tests" / "chromium.py"], capture_output=True,
                          text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and "neither Chromium nor Google Chrome" in done.stderr


# --- the requirements files -----------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    found = re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;#]+)", text, re.MULTILINE)
    return {package.replace("_", "-").lower(): version for package, version in found}


def test_every_requirement_is_one_exact_version():
    for name in ("requirements.txt", "requirements-cpu.txt", "requirements-test.txt"):
        lines = (ROOT / name).read_text().splitlines()
        wanted = [line for line in lines if line and not line.startswith("#")]
        assert len(pins(name)) == len(wanted) > 0, name


def test_both_stacks_name_the_same_versions_but_for_torch():
    cpu, gpu = pins("requirements-cpu.txt"), pins("requirements.txt")
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
    assert version.startswith(pins("requirements-cpu.txt")["torch"])
