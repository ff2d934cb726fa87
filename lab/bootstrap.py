"""Make .venv and install the packages that fit this machine: `make setup` with nothing but Python.

    python3 lab/bootstrap.py              what the lab needs; STACK=cpu or STACK=gpu overrides
    python3 lab/bootstrap.py --tests      what its tests need as well
    python3 lab/bootstrap.py --browser    a Chromium for the browser tests as well

Standard library only, and nothing that Python 3.6 cannot read: it has to start on the wrong Python
to say which one is right. What is missing ends in one sentence on stderr and exit status 2.
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
LOG = VENV / "setup.log"
STAMP = VENV / "setup-done.json"
UNFINISHED = VENV / "setup-unfinished"  # there from the first change to .venv until the last

STARTED = time.monotonic()

PYTHONS = ((3, 12), (3, 13), (3, 11))  # in the order they are looked for
STACK_FILES = {"cpu": "requirements-cpu.txt", "gpu": "requirements.txt"}
TEST_FILE = "requirements-test.txt"
SPACE_GB = {"cpu": 3, "gpu": 16}  # .venv, the downloads and pip's cache of them
FORECAST = {
    "cpu": "about 2 GB on disk and 2 to 6 minutes",
    "gpu": "about 9 GB on disk and 5 to 30 minutes",
}
GPU_DRIVER = 580  # the first that runs CUDA 13, which torch and vllm are built with
GPU_CAPABILITY = 7.5  # CUDA 13 knows no older GPU

# On Linux the usual index has torch with several GB of CUDA, of no use to the cpu stack.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_PATIENCE = 6  # seconds

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_PATHS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
)

PROBE_PYTHON = """
import json, sys
try:
    import venv
    from ensurepip import version  # Debian leaves this module out of its python3
    able = True
except ImportError:
    able = False
base = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps([list(sys.version_info[:2]), base, able]))
"""


class Problem(Exception):
    """What happened, why, and what to do: one sentence."""

    def __init__(self, what, why, todo):
        super().__init__("{}, because {}; {}.".format(what, why.strip().rstrip("."), todo))


def main(arguments):
    parser = argparse.ArgumentParser(
        description="Make .venv and install the packages that fit this machine.",
        epilog="STACK=cpu or STACK=gpu in the environment overrides the choice of packages.",
    )
    parser.add_argument("--tests", action="store_true", help="also install what the tests need")
    parser.add_argument("--browser", action="store_true", help="also see to a Chromium")
    options = parser.parse_args(arguments)
    try:
        for name in ("SIGTERM", "SIGHUP"):  # a closed terminal must not leave pip at work alone
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, signal.default_int_handler)
        lock = take_lock()
        set_up(os.environ.get("STACK", "").strip().lower(), options.tests, lock)
        if options.browser:
            see_to_browser()
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    except OSError as error:
        why = f"{error.filename or ROOT}: {error.strerror or error}"
        todo = "see to that and run the same command again"
        print(Problem("The set-up stopped", why, todo), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command starts the set-up again.", file=sys.stderr)
        return 130
    return 0


def set_up(wanted, tests, lock):
    """Bring .venv to what the requirements files say; touch nothing where it is there already."""
    stamp = read_stamp()
    stack, why = settle_stack(wanted, stamp)
    names = [STACK_FILES[stack]] + ([TEST_FILE] if tests else [])
    fault = fault_of_venv(stamp)
    if not fault and stamp.get("stack") == stack and all(is_installed(n, stamp) for n in names):
        print(f"The {stack} stack is in .venv.", flush=True)
        return

    if not fault and stamp and stamp["stack"] != stack:
        fault = "it has the {} stack".format(stamp["stack"])
        check_space(stack)  # before what works is removed
    fresh = bool(fault)
    if fresh:
        python = find_python()
        if VENV.exists():
            refuse_strangers()
            print(f"Making .venv afresh, because {fault}.")
        empty_venv()
        check_space(stack)
    print(f"Setting up the {stack} stack, because {why}.")
    if fresh:
        print(f"That takes {FORECAST[stack]}.")
    print(f"Full log: {LOG.relative_to(ROOT)}", flush=True)

    UNFINISHED.write_text("This set-up has not reached its end.\n")
    with LOG.open("w", encoding="utf-8", errors="replace") as log:
        if fresh:
            run_logged([python, "-m", "venv", str(VENV)], log, lock, "making .venv")
        if stack == "cpu" and sys.platform == "linux":
            install_cpu_torch(log, lock)
        files = [part for name in names for part in ("-r", str(ROOT / name))]
        status = run_logged(pip("install", *files), log, lock, "installing packages")
        shutil.rmtree(str(VENV / "tmp"), ignore_errors=True)
    if status:
        text = LOG.read_text(encoding="utf-8", errors="replace")
        if not is_disk_full(text):
            # pip gave up in order: what was there works as before, and the next run goes on.
            UNFINISHED.unlink()
        raise explain_pip(text)
    write_stamp(stack, bool(wanted) or stamp.get("asked", False), names, {} if fresh else stamp)
    UNFINISHED.unlink()
    print(f"Set up in {time.monotonic() - STARTED:.0f} s.")
    if not tests:
        print(f"{VENV_PYTHON.relative_to(ROOT)} app.py starts the lab.", flush=True)


# --- which stack ----------------------------------------------------------------------------------


def settle_stack(wanted, stamp):
    """The stack and the reason for it. What .venv has stays unless STACK asks for another."""
    if wanted and wanted not in STACK_FILES:
        why = f"STACK is {wanted!r} and there are only cpu and gpu"
        raise Problem("No stack was chosen", why, "set one of these or leave STACK out")
    if wanted and wanted == stamp.get("stack"):
        return wanted, "STACK asks for it"
    if wanted == "cpu":
        return "cpu", "STACK asks for it"
    if wanted == "gpu":
        possible, why = gpu_stack_possible(platform.system(), platform.machine(), ask_nvidia_smi())
        if not possible:
            todo = "leave STACK out to get the cpu stack, or mend that first"
            raise Problem("The gpu stack cannot be installed here", why, todo)
        return "gpu", "STACK asks for it"
    if stamp:
        if stamp["stack"] == "cpu" and not stamp.get("asked") and shutil.which("nvidia-smi"):
            facts = platform.system(), platform.machine(), ask_nvidia_smi()
            if gpu_stack_possible(*facts)[0]:
                print("This machine could run the gpu stack now: STACK=gpu make lab")
        return stamp["stack"], "it was chosen before"
    possible, why = gpu_stack_possible(platform.system(), platform.machine(), ask_nvidia_smi())
    return ("gpu" if possible else "cpu"), why


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
    driver = int(gpus[0][0])
    if driver < GPU_DRIVER:
        return False, f"the NVIDIA driver is {driver} and CUDA 13 needs {GPU_DRIVER}"
    capability = max(float(gpu[1]) for gpu in gpus)
    if capability < GPU_CAPABILITY:
        why = "the GPU has compute capability {} and CUDA 13 needs {}"
        return False, why.format(capability, GPU_CAPABILITY)
    return True, f"the NVIDIA driver is {driver}"


# --- the Python that makes .venv ------------------------------------------------------------------


def find_python():
    """A Python of a right version that can make .venv: this one, else one on PATH."""
    commands = [[sys.executable]] + [["python{}.{}".format(*version)] for version in PYTHONS]
    if os.name == "nt":
        commands += [["py", "-{}.{}".format(*version)] for version in PYTHONS]
    return choose_python([found for found in map(probe_python, commands) if found])


def probe_python(command):
    """[[major, minor], executable, can make a venv]; None where it is no Python that starts."""
    try:
        # PATH may have a version manager's stand-in for a Python that is not installed.
        output = subprocess.check_output(
            command + ["-c", PROBE_PYTHON], stderr=subprocess.DEVNULL, timeout=30
        )
        return json.loads(output.decode())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def choose_python(found):
    right = [python for python in found if tuple(python[0]) in PYTHONS]
    for _, executable, can_make_venv in right:
        if can_make_venv:
            return executable
    again = "and run the same command again"
    if right:
        version, executable = "{}.{}".format(*right[0][0]), right[0][1]
        raise Problem(
            "The virtual environment cannot be made",
            f"{executable} comes without its venv and ensurepip modules",
            f"install them (Debian, Ubuntu: sudo apt-get install python{version}-venv) {again}",
        )
    here = "{}.{}".format(*(found[0][0] if found else sys.version_info[:2]))
    raise Problem(
        "The virtual environment cannot be made",
        f"it needs Python 3.11, 3.12 or 3.13, this is {here}, and PATH has none of them",
        f"install one, from your system's packages or python.org, {again}",
    )


# --- the state of .venv ---------------------------------------------------------------------------


def read_stamp():
    """What the last finished set-up wrote; {} where there is none that can be read."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        return stamp if stamp["stack"] in STACK_FILES and stamp["python"] and stamp["files"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_stamp(stack, asked, names, before):
    files = dict(before.get("files", {}))
    files.update({name: digest(name) for name in names})
    stamp = {"stack": stack, "asked": asked, "python": venv_version(), "files": files}
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def digest(name):
    return hashlib.sha256((ROOT / name).read_bytes()).hexdigest()


def fault_of_venv(stamp):
    """Why .venv has to be made afresh; an empty string where it is sound."""
    if not VENV.exists():
        return "there is none"
    if UNFINISHED.exists():
        return "an earlier set-up did not reach its end"
    version = venv_version()
    if version is None:
        return "its Python does not start"
    if tuple(version) not in PYTHONS:
        return "it has Python {}.{}".format(*version)
    if stamp and stamp["python"] != version:
        # The system's Python moved on under it: its packages lie in the folder of the old version.
        return "it was made with Python {}.{}".format(*stamp["python"])
    if not any((folder / "pip").is_dir() for folder in package_folders()):
        return "it has no pip"
    return ""


def venv_version():
    found = probe_python([str(VENV_PYTHON)])
    return found and found[0]


def package_folders():
    return list(VENV.glob("lib/python*/site-packages")) + list(VENV.glob("Lib/site-packages"))


def is_installed(name, stamp):
    """Whether a requirements file is the one last installed and its packages are still there."""
    if stamp.get("files", {}).get(name) != digest(name):
        return False
    have = installed_versions()
    return all(have.get(package) == version for package, version in pins(name).items())


def installed_versions():
    versions = {}
    for folder in package_folders():
        for info in folder.glob("*.dist-info"):
            package, _, version = info.name[: -len(".dist-info")].partition("-")
            versions[plain(package)] = version.split("+")[0]  # 2.13.0+cpu is 2.13.0
    return versions


def pins(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==([^\s;#]+)", text, re.MULTILINE)
    return {plain(package): version for package, version in found}


def plain(package):
    return re.sub(r"[-_.]+", "-", package).lower()


def refuse_strangers():
    """Never empty a folder that is not a virtual environment."""
    ours = (VENV / "pyvenv.cfg", UNFINISHED, STAMP, LOG)
    if VENV.is_dir() and (any(path.exists() for path in ours) or not any(VENV.iterdir())):
        return
    why = f"{VENV} exists and is not one"
    raise Problem("The virtual environment cannot be made", why, "move it away and try again")


def empty_venv():
    """Empty the folder but keep it: it may be a link to another disk."""
    VENV.mkdir(exist_ok=True)
    UNFINISHED.write_text("This set-up has not reached its end.\n")
    for path in VENV.iterdir():
        if path == UNFINISHED:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        else:
            path.unlink()


def check_space(stack):
    refuse_full_disk(stack, shutil.disk_usage(str(VENV if VENV.exists() else ROOT)).free)


def refuse_full_disk(stack, free):
    if free < SPACE_GB[stack] * 1e9:
        why = "the {} stack needs about {} GB of disk and {:.1f} GB are free"
        raise Problem(
            "The packages cannot be installed",
            why.format(stack, SPACE_GB[stack], free / 1e9),
            "free some space and run the same command again",
        )


def take_lock():
    """A lock on this very file, so that two set-ups do not work on one .venv; pip inherits it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = os.open(__file__, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        todo = "wait for it to end and run the same command again"
        raise Problem("Nothing was set up", "another set-up is at work here", todo) from None
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


# --- pip ------------------------------------------------------------------------------------------


def pip(*arguments):
    return [str(VENV_PYTHON), "-m", "pip", *arguments, "--progress-bar", "off"]


def install_cpu_torch(log, lock):
    """Try PyTorch's own index for the small CPU build; what follows tries the usual one."""
    version = pins(STACK_FILES["cpu"])["torch"]
    if installed_versions().get("torch") == version:
        return
    reason = "PyTorch's CPU index does not answer"
    if answers(TORCH_CPU_INDEX + "/torch/"):
        # Without its dependencies: these come with everything else, from the usual index.
        arguments = ("install", "torch==" + version, "--no-deps", "--index-url", TORCH_CPU_INDEX)
        if not run_logged(pip(*arguments), log, lock, "fetching the CPU build of torch"):
            return
        reason = "PyTorch's CPU index did not deliver"
    print(f"{reason}: torch comes from the usual index, maybe with CUDA (3 GB more).")


def answers(url):
    # A process, because a time-out of urllib does not cover the look-up of the name.
    code = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).close()"
    command = [sys.executable, "-c", code, url]
    try:
        subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=INDEX_PATIENCE)
        return True
    except (OSError, subprocess.SubprocessError):
        return False


def run_logged(command, log, lock, doing):
    """Run a command into the log, tell its course calmly on stdout, return its exit status."""
    (VENV / "tmp").mkdir(exist_ok=True)
    environment = dict(os.environ)
    environment.update(
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INPUT="1",
        PIP_USER="0",
        PYTHONUNBUFFERED="1",
        # pip keeps every download here to the end, and /tmp is often small or in memory.
        TMPDIR=str(VENV / "tmp"),
    )
    environment.pop("PYTHONPATH", None)  # its packages would count as installed
    log.write("$ {}\n".format(" ".join(command)))
    progress = Progress(doing)
    child = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=() if lock is None else (lock,),
    )
    try:
        for raw in child.stdout:
            line = raw.decode("utf-8", "replace")
            log.write(line)
            log.flush()
            progress.see(line)
        status = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        progress.end()
    if status and command[1:3] == ["-m", "venv"]:
        why = f"{command[0]} -m venv ended with status {status}"
        todo = f"read {LOG} and run the same command again"
        raise Problem("The virtual environment cannot be made", why, todo)
    return status


class Progress:
    """pip's lines as a few: on a terminal one line that changes, elsewhere only what takes time."""

    def __init__(self, doing):
        self.live = sys.stdout.isatty()
        self.packages = 0
        self.shown = ""
        self.say(doing)

    def see(self, line):
        download = re.match(r"\s+(?:Downloading|Using cached) (\S+?)-\d\S* \(([\d.]+) MB\)", line)
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            self.packages += 1
            if self.live:
                self.say(f"choosing packages: {self.packages}")
        elif download and (self.live or float(download.group(2)) >= 20):
            self.say("fetching {} ({} MB)".format(*download.groups()))
        elif line.startswith("Installing collected packages"):
            count = line.count(",") + 1
            self.say(f"installing {count} packages (the longest part)")

    def say(self, text):
        text = f"  {time.monotonic() - STARTED:4.0f} s  {text}"
        if self.live:
            print("\r" + text.ljust(len(self.shown)), end="", flush=True)
            self.shown = text
        else:
            print(text, flush=True)

    def end(self):
        if self.live:
            print("\r" + " " * len(self.shown) + "\r", end="", flush=True)


def is_disk_full(log):
    return "No space left on device" in log or "[Errno 28]" in log


def explain_pip(log):
    """The Problem behind a pip that failed, from its log."""
    what = "The packages could not be installed"
    again = f"and run the same command again (full log: {LOG})"
    errors = re.findall(r"^ERROR: (.+)", log, re.MULTILINE)
    missing = re.search(r"^ERROR: No matching distribution found for (\S+)", log, re.MULTILINE)
    unreached = re.search(
        "connection broken by|HTTPSConnection|Read timed out|IncompleteRead|Connection reset", log
    )
    if is_disk_full(log):
        return Problem(what, "the disk is full", "free some space " + again)
    if unreached and (not missing or "from versions: none" in log):
        why = "the package index could not be reached"
        return Problem(what, why, "check the network connection " + again)
    if missing:
        version = "{}.{}".format(*(venv_version() or sys.version_info[:2]))
        machine = f"{platform.system()} on {platform.machine()}"
        why = f"there is no {missing.group(1)} for {machine} with Python {version}"
        return Problem(what, why, "use another machine or Python version " + again)
    why = "pip says: {}".format(errors[-1] if errors else "nothing that names a cause")
    return Problem(what, why, "see to that " + again)


# --- the browser of the tests ---------------------------------------------------------------------


def find_browser():
    for name in BROWSERS:
        if shutil.which(name):
            return shutil.which(name)
    return next((path for path in BROWSER_PATHS if os.path.exists(path)), None)


def see_to_browser():
    if find_browser():
        return
    if shutil.which("apt-get"):
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]  # -n: never stop to ask for a password
        print("Installing Chromium for the browser tests.", flush=True)
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            command = prefix + ["apt-get", "-qq"] + arguments
            try:
                subprocess.check_output(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            except (OSError, subprocess.SubprocessError):
                break
    if not find_browser():
        raise Problem(
            "The browser tests cannot run",
            "neither Chromium nor Google Chrome was found and installing it did not work",
            "install one (Debian: sudo apt-get install chromium) or leave these tests out: "
            f'{VENV_PYTHON.relative_to(ROOT)} -m pytest -m "not browser and not slow and not gpu"',
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
