"""What of a machine stands in the way of training, and what it will train with, in words."""

from lab.core.hardware.engines import (
    CAPABILITY,
    DRIVER,
    TITLES,
    Ladder,
    choose_stack,
    trouble_with_driver,
)
from lab.core.hardware.machine import Gpu, Machine
from lab.core.problems import Problem
from lab.core.settings import CPU

NEEDED = ("torch", "transformers", "trl", "peft", "datasets", "gradio")  # by every run
FREE_DISK_GB = 20  # below it a model of 8B and what its engines compile may not fit
HELD_GB, HELD_SHARE = 1.0, 0.1  # memory of a GPU that others hold: what counts as much
SHOWN_PROCESSES = 3


def machine_problems(machine: Machine, pins: dict[str, str]) -> list[Problem]:
    """What should be seen to, errors first. `pins` are the versions the lab was tested with."""
    found = missing_packages(machine)
    for gpu in machine.gpus[:1]:  # the one that trains
        found += driver_is_old(gpu) + gpu_is_old(gpu) + memory_is_held(gpu)
    return (found + compiler_is_missing(machine) + disk_is_small(machine)
            + versions_differ(machine, pins))


def missing_packages(machine: Machine) -> list[Problem]:
    return [Problem(f"{name} is not installed.", "Every run needs it.", "Run `make setup`.")
            for name in NEEDED if name not in machine.packages]


def driver_is_old(gpu: Gpu) -> list[Problem]:
    if not trouble_with_driver(gpu.driver):
        return []
    return [Problem(f"The NVIDIA driver {gpu.driver} is too old for the gpu stack.",
                    f"It is built for CUDA 13, which needs driver {DRIVER} or newer.",
                    f"Install driver {DRIVER} or newer; until then the CPU trains.",
                    level="warning", kind="driver")]


def gpu_is_old(gpu: Gpu) -> list[Problem]:
    if not gpu.capability or gpu.capability >= CAPABILITY:
        return []
    return [Problem(f"The {gpu.name} is too old for the gpu stack.",
                    f"Its compute capability is {gpu.capability}, and CUDA 13 needs {CAPABILITY} "
                    "or newer.", "Use a T4, an RTX 20 or anything newer; here the CPU trains.",
                    level="warning")]


def memory_is_held(gpu: Gpu) -> list[Problem]:
    """Other programs that hold much of the GPU's memory, the largest of them by name."""
    others = sorted(gpu.processes, key=lambda process: -process.memory_gb)
    held = sum(process.memory_gb for process in others)
    if others and not held:  # the driver does not say how much each holds
        held = gpu.memory_gb - gpu.free_gb
    if held < max(HELD_GB, HELD_SHARE * gpu.memory_gb):
        return []
    named = [f"{process.name} (process {process.pid}"
             + (f", {process.memory_gb:.1f} GB)" if process.memory_gb else ")")
             for process in others[:SHOWN_PROCESSES]]
    if len(others) > SHOWN_PROCESSES:
        named.append(f"{len(others) - SHOWN_PROCESSES} more")
    return [Problem(f"Other programs hold {held:.1f} of {gpu.memory_gb:.1f} GB of the {gpu.name}.",
                    f"{', '.join(named)}. {gpu.free_gb:.1f} GB are free.",
                    f"End {'it' if len(others) == 1 else 'them'}, or lower 'GPU share of vLLM'.",
                    level="warning", kind="gpu_busy")]


def compiler_is_missing(machine: Machine) -> list[Problem]:
    if choose_stack("auto", machine).value != "gpu" or machine.compiler:
        return []
    return [Problem("There is no C compiler.", "Triton builds the launchers of its GPU kernels "
                    "with one, at the first step.", "Install gcc (Debian: `apt install gcc`), or "
                    "name another in CC.", level="warning")]


def disk_is_small(machine: Machine) -> list[Problem]:
    if choose_stack("auto", machine).value != "gpu" or machine.free_disk_gb >= FREE_DISK_GB:
        return []
    return [Problem(f"Only {machine.free_disk_gb:.1f} GB of disk are free where runs are kept.",
                    f"Models, checkpoints and what the engines compile need about {FREE_DISK_GB} "
                    "GB.", "Free some space, or give another folder with --root and HF_HOME.",
                    level="warning")]


def versions_differ(machine: Machine, pins: dict[str, str]) -> list[Problem]:
    """Packages with another version than the tested one; a build such as +cu130 is no other."""
    return [Problem(f"{name} {have} is installed, the lab was tested with {pins[name]}.",
                    next="If a run fails, `make setup` installs the tested one.", level="warning")
            for name, have in machine.packages.items()
            if name in pins and have.split("+")[0] != pins[name].split("+")[0]]


def gpu_line(gpu: Gpu) -> str:
    """One GPU with what the gpu stack asks of it."""
    capability = f"{gpu.capability:g}" if gpu.capability else "unknown"
    return (f"{gpu.name}, {gpu.free_gb:.1f} of {gpu.memory_gb:.1f} GB free, driver {gpu.driver} "
            f"({DRIVER} or newer is needed), compute capability {capability} ({CAPABILITY} or "
            "newer)")


def engine_lines(ladder: Ladder) -> list[tuple[str, str]]:
    """(label, text): the engine that trains and why, and those that are left out and why."""
    first, *rest = ladder.tried
    # Why it is the cpu stack stands in the line above.
    why = "the stack is cpu" if first.value == CPU else first.why
    text = f"{TITLES[first.value]}, because {why}"
    if rest:
        text += f"; if it cannot, {', then '.join(TITLES[one.value] for one in rest)}"
    return [("Engine", text), *(("Not tried", f"{TITLES[one.value]}, because {one.why}")
                                for one in ladder.skipped)]
