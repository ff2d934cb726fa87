"""What the GPU measurements share: children with a limit, memory of the GPU, models, folders."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from lab.core.settings import Settings
from lab.services.data import load as datasets
from lab.services.environment import worker_environment
from lab.services.lab import Lab
from lab.services.models import model_folder
from lab.services.workspace import PROJECT

MIB = 1.048576e-3  # in GB
QUERY = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i"]


def device() -> str:
    """The one GPU that everything here runs on."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"


def used_gb() -> float:
    """Memory in use on the GPU, by whatever runs there; 0 where nvidia-smi does not say."""
    try:
        told = subprocess.run([*QUERY, device()], capture_output=True, text=True, timeout=20)
        return float(told.stdout.split()[0]) * MIB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0.0


class Gauge:
    """Peak of the GPU's memory inside the `with`, less what was in use before, in GB."""

    def __enter__(self) -> "Gauge":
        self.before = self.highest = used_gb()
        self._process = None
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(  # one process that looks five times a second
                [*QUERY, device(), "-lms", "200"], stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=self._follow, daemon=True).start()
        return self

    def _follow(self) -> None:
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self.highest = max(self.highest, float(line) * MIB)

    def __exit__(self, *error) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()

    @property
    def peak(self) -> float:
        return self.highest - self.before


def run(arguments: list[str], limit: float, log: Path, caches: Path | None = None) -> dict:
    """What `python -m ...` prints as its last line of JSON, or {"problem": why there is none}.

    Its output is kept in `log`. At the limit it is ended with all that it started. `caches` is a
    lab's folder of compiled code, for sides that are not the lab: no side compiles for another.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with log.open("w", encoding="utf-8") as out, Gauge() as gauge:
        child = subprocess.Popen([sys.executable, "-m", *arguments], cwd=PROJECT, stdout=out,
                                 stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                 env=worker_environment() | _caches(caches)
                                 | {"CUDA_VISIBLE_DEVICES": device()})
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        except BaseException:
            end(child)
            raise
        if code is None:
            end(child)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = next((found for line in reversed(lines[-50:]) if (found := _object(line))), None)
    wall = {"wall": round(time.monotonic() - begun, 1), "peak_gb": round(gauge.peak, 2)}
    settle(gauge.before)
    if told and (code == 0 or "steps" in told):
        return wall | told  # a row that measures a run of its own knows better
    why = f"not done after {limit:.0f} s" if code is None else f"exit status {code}"
    return {"problem": why, "last_lines": lines[-15:]} | wall


def _caches(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    return {"VLLM_CACHE_ROOT": str(folder / "vllm"), "TRITON_CACHE_DIR": str(folder / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def _object(line: str) -> dict | None:
    with contextlib.suppress(ValueError):
        if line.startswith("{") and isinstance(found := json.loads(line), dict):
            return found
    return None


def end(process: subprocess.Popen) -> None:
    """End a child and everything below it; workers have sessions of their own."""
    with contextlib.suppress(psutil.Error):
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                one.kill()
    process.kill()
    process.wait()


def last_lines(lab: Path, lines: int = 30) -> list[str]:
    """The end of the log that a worker of this root wrote last."""
    logs = sorted(lab.glob("**/*.log"), key=lambda path: path.stat().st_mtime)[-1:]
    return [line for log in logs
            for line in [f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-lines:]]]


def settle(before: float, patience: float = 60.0) -> None:
    """Wait until the GPU's memory is back: an engine that starts while it comes back fails."""
    limit = time.monotonic() + patience
    while used_gb() > before + 0.5 and time.monotonic() < limit:
        time.sleep(0.5)  # the driver tells nobody when memory is back


def first_point(lab: Lab, settings: Settings) -> float:
    """Seconds from Start to the first point of a run's curve; the run ends by itself."""
    begun = time.monotonic()
    folder = lab.jobs.start(settings)
    while not lab.runs.log(folder.id).steps and lab.runs.get(folder.id).is_active:
        time.sleep(0.02)  # the page looks at the log too, far less often
    seconds = time.monotonic() - begun
    run = lab.jobs.wait(folder.id)
    if run.status != "finished":
        raise SystemExit(f"The run is {run.status}: {run.problem}")
    return seconds


def model(shape: str, cache: Path) -> Path:
    """The folder of a model of this shape with random weights, made if it is not there."""
    folder = cache.resolve() / shape
    if not (folder / "config.json").exists():
        before = used_gb()
        subprocess.run([sys.executable, "-m", "tests.bench.shapes", shape, str(folder)],
                       cwd=PROJECT, env=worker_environment(), check=True, timeout=300)
        settle(before)
    return folder


def run_folder(folder: Path, settings: Settings) -> Path:
    """A folder with the settings and the data of a run that nobody has started."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    datasets.write_split(datasets.load(settings.data, settings.train.seed), folder)
    (folder / "settings.json").write_text(json.dumps({
        "settings": settings.to_dict(), "effective": {"model": model_folder(settings)}}, indent=1))
    return folder
