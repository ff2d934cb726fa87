"""Make .venv and install the packages that fit this machine: `make setup` with nothing but Python.

    python3 lab/bootstrap.py              what the lab needs; STACK=cpu or STACK=gpu overrides
    python3 lab/bootstrap.py --tests      what its tests need as well

uv installs where it is on PATH, else pip; what they say is not said again here. Standard library
only, and nothing that Python 3.6 cannot read: it has to start on the wrong Python to say which one
is right. What is missing ends in one sentence on stderr and exit status 2.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "setup-done.json"
UNFINISHED = VENV / "setup-unfinished"  # there from the first change to .venv until the last

PYTHONS = ((3, 12), (3, 13), (3, 11))  # in the order they are looked for
STACK_FILES = {"cpu": "requirements-cpu.txt", "gpu": "requirements.txt"}
TEST_FILE = "requirements-test.txt"
FORECAST = {"cpu": "about 2 GB on disk and 2 to 6 minutes",
            "gpu": "about 9 GB on disk and 5 to 30 minutes"}
GPU_DRIVER = 580  # the first that runs CUDA 13, which torch and vllm are built with
GPU_CAPABILITY = 7.5  # CUDA 13 knows no older GPU

# On Linux the usual index has torch with several GB of CUDA, of no use to the cpu stack.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_PATIENCE = 6  # seconds

AGAIN = "run the same command again"


def stop(what, why, todo):
    """End with one sentence: what happened, why, and what to do."""
    print("{}, because {}; {}.".format(what, why.strip().rstrip("."), todo), file=sys.stderr)
    sys.exit(2)


def main(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="STACK=cpu or STACK=gpu overrides the choice.")
    parser.add_argument("--tests", action="store_true", help="also install what the tests need")
    options = parser.parse_args(arguments)
    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal must not leave pip at work alone
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        take_lock()
        set_up(os.environ.get("STACK", "").strip().lower(), options.tests)
    except OSError as error:
        why = f"{error.filename or ROOT}: {error.strerror or error}"
        stop("The set-up stopped", why, "see to that and " + AGAIN)
    except KeyboardInterrupt:
        print("\nStopped. The same command starts the set-up again.", file=sys.stderr)
        sys.exit(130)


def set_up(wanted, tests):
    """Bring .venv to what the requirements files say; touch nothing where it is there already."""
    started, stamp = time.monotonic(), read_stamp()
    stack, why = settle_stack(wanted, stamp)
    names = [STACK_FILES[stack]] + ([TEST_FILE] if tests else [])
    fault = fault_of_venv(stamp)
    if not fault and stamp and stamp["stack"] != stack:
        fault = "it has the {} stack".format(stamp["stack"])
    have = {} if fault else stamp.get("files", {})
    if all(have.get(name) == digest(name) for name in names):
        print(f"The {stack} stack is in .venv.", flush=True)
        return

    print(f"Setting up the {stack} stack, because {why}.", flush=True)
    if fault:
        make_venv(stack, fault)
    UNFINISHED.write_text("This set-up has not reached its end.\n")
    if stack == "cpu" and sys.platform == "linux":
        install_cpu_torch()
    status = install([part for name in names for part in ("-r", str(ROOT / name))])
    if status:
        if not fault and not half_installed():
            UNFINISHED.unlink()  # it gave up in order: what was there works as before
        why = f"the installer ended with status {status}, in its own words above"
        stop("The packages could not be installed", why, "see to that and " + AGAIN)
    have = dict(have, **{name: digest(name) for name in names})
    STAMP.write_text(json.dumps({"stack": stack, "python": version_of(VENV_PYTHON), "files": have}))
    UNFINISHED.unlink()
    print(f"Set up in {time.monotonic() - started:.0f} s.")
    if not tests:
        print(f"{VENV_PYTHON.relative_to(ROOT)} app.py starts the lab.", flush=True)


def settle_stack(wanted, stamp):
    """The stack and the reason for it. What .venv has stays unless STACK asks for another."""
    if wanted and wanted not in STACK_FILES:
        why = f"STACK is {wanted!r} and there are only cpu and gpu"
        stop("No stack was chosen", why, "set one of these or leave STACK out")
    has = stamp.get("stack")
    if has and not wanted:
        return has, "it was chosen before"
    if wanted == "cpu" or wanted and wanted == has:
        return wanted, "STACK asks for it"
    possible, why = gpu_stack_possible(platform.system(), platform.machine(), ask_nvidia_smi())
    if wanted and not possible:
        todo = "leave STACK out to get the cpu stack, or mend that first"
        stop("The gpu stack cannot be installed here", why, todo)
    return ("gpu" if possible else "cpu"), ("STACK asks for it" if wanted else why)


def ask_nvidia_smi():
    """`driver, compute capability`, one line a GPU; None where there is no working driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=30).decode()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def gpu_stack_possible(system, machine, answer):
    """Whether the gpu stack runs here, and the reason; `answer` is what nvidia-smi said."""
    if system != "Linux" or machine.lower() not in ("x86_64", "amd64"):
        return False, f"vLLM comes for Linux on x86-64 and this is {system} on {machine}"
    gpus = re.findall(r"^\s*(\d+)[\d.]*\s*,\s*(\d+\.\d+)", answer or "", re.MULTILINE)
    if not gpus:
        return False, "nvidia-smi finds no NVIDIA GPU with a working driver"
    driver, capability = int(gpus[0][0]), max(float(gpu[1]) for gpu in gpus)
    if driver < GPU_DRIVER:
        return False, f"the NVIDIA driver is {driver} and CUDA 13 needs {GPU_DRIVER}"
    if capability < GPU_CAPABILITY:
        why = "the GPU has compute capability {} and CUDA 13 needs {}"
        return False, why.format(capability, GPU_CAPABILITY)
    return True, f"the NVIDIA driver is {driver}"


def read_stamp():
    """What the last finished set-up wrote; {} where there is none that can be read."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        return stamp if stamp["stack"] in STACK_FILES and stamp["python"] and stamp["files"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def digest(name):
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


def fault_of_venv(stamp):
    """Why .venv has to be made afresh; an empty string where it is sound."""
    if not VENV.exists():
        return "there is none"
    if UNFINISHED.exists():
        return "an earlier set-up did not reach its end"
    version = version_of(VENV_PYTHON)
    if tuple(version or ()) not in PYTHONS or version != stamp.get("python", version):
        # The system's may have moved on: the packages lie in the folder of the old version.
        return "its Python is another one now or does not start"
    return ""


def version_of(python):
    """[major, minor] of a Python; None where it does not start, as a version manager's shim."""
    code = "import sys; print(list(sys.version_info[:2]))"
    try:
        output = subprocess.check_output([str(python), "-c", code], stderr=subprocess.DEVNULL,
                                         timeout=30)
        return json.loads(output.decode())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def half_installed():
    """Whether an installer was stopped inside a package: the list of its files comes last."""
    return any(not (info / "RECORD").exists() for info in VENV.glob("[Ll]ib/**/*.dist-info"))


def make_venv(stack, fault):
    """Make .venv afresh; a folder that is not a virtual environment is never emptied."""
    cannot = "The virtual environment cannot be made"
    command = command_for_venv(cannot)
    there = list(VENV.iterdir()) if VENV.is_dir() else []
    ours = any(path.exists() for path in (VENV / "pyvenv.cfg", UNFINISHED, STAMP))
    if (there or VENV.is_file()) and not ours:
        stop(cannot, f"{VENV} exists and is not one", "move it away and try again")
    print(f"Making .venv, because {fault}. That takes {FORECAST[stack]}.", flush=True)
    VENV.mkdir(exist_ok=True)  # emptied and kept: it may be a link to another disk
    UNFINISHED.write_text("This set-up has not reached its end.\n")
    for path in there:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif path != UNFINISHED:
            path.unlink()
    if run(command):
        why = "{} failed, in its own words above".format(" ".join(command[:3]))
        stop(cannot, why, "see to that and " + AGAIN)


def command_for_venv(cannot):
    """uv finds or fetches a right Python by itself; else it is this one or one on PATH."""
    uv = shutil.which("uv")
    if uv:
        return [uv, "venv", "--allow-existing", "--python", ">=3.11,<3.14", str(VENV)]
    this = getattr(sys, "_base_executable", None) or sys.executable  # not the one of .venv itself
    for python in [this] + ["python{}.{}".format(*version) for version in PYTHONS]:
        if tuple(version_of(python) or ()) in PYTHONS:
            return [python, "-m", "venv", str(VENV)]
    why = "it needs Python 3.11, 3.12 or 3.13, this is {}.{}, and PATH has none of them"
    todo = "install one, from your system's packages or python.org, or uv, and " + AGAIN
    stop(cannot, why.format(*sys.version_info[:2]), todo)


def take_lock():
    """Lock this very file, for the installer too: two set-ups never work on one .venv."""
    try:
        import fcntl
        lock = os.open(__file__, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_inheritable(lock, True)
    except BlockingIOError:
        stop("Nothing was set up", "another set-up is at work here", "let it end and " + AGAIN)
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass


def install(arguments):
    uv, python = shutil.which("uv"), str(VENV_PYTHON)
    command = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    return run(command + arguments)


def install_cpu_torch():
    """Try PyTorch's own index for the small CPU build; what follows tries the usual one."""
    from_there = ["--index-url", TORCH_CPU_INDEX, "--retries", "0",
                  "--timeout", str(INDEX_PATIENCE)]
    if shutil.which("uv"):  # gives up by itself
        from_there = ["--default-index", TORCH_CPU_INDEX]
    text = (ROOT / STACK_FILES["cpu"]).read_text(encoding="utf-8")
    torch = re.search(r"^torch==[^\s;#]+", text, re.MULTILINE).group()
    # Without its dependencies: these come with everything else, from the usual index.
    if install([torch, "--no-deps"] + from_there):
        print("PyTorch's CPU index does not deliver: torch comes from the usual index, maybe with "
              "CUDA (3 GB more).", flush=True)


def run(command):
    """The exit status of a command that speaks for itself."""
    (VENV / "tmp").mkdir(exist_ok=True)
    # pip keeps every download in TMPDIR to the end, and /tmp is often small or in memory.
    own = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0",
           "TMPDIR": str(VENV / "tmp")}
    environment = dict(os.environ, **own)
    environment.pop("PYTHONPATH", None)  # its packages would count as installed
    child = subprocess.Popen(command, cwd=str(ROOT), env=environment, stdin=subprocess.DEVNULL,
                             close_fds=False)
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        shutil.rmtree(str(VENV / "tmp"), ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
