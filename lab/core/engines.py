"""Which stack and engine train a run on this machine, each choice with its reason."""

from dataclasses import dataclass

from lab.core.machine import Choice, Machine
from lab.core.settings import CPU, TRL, TRL_VLLM, UNSLOTH, Settings

DRIVER = 580  # the first that runs CUDA 13, which torch and vllm of the gpu stack are built with
CAPABILITY = 7.5  # CUDA 13 knows no older GPU
TITLES = {UNSLOTH: "Unsloth + vLLM", TRL_VLLM: "TRL + vLLM", TRL: "TRL on the GPU",
          CPU: "TRL on the CPU"}


@dataclass(frozen=True)
class Ladder:
    """The engines to try in order, and those that cannot be tried, each with its reason."""

    tried: tuple[Choice, ...]
    skipped: tuple[Choice, ...] = ()

    @property
    def first(self) -> Choice:
        return self.tried[0]


def choose_stack(wanted: str, machine: Machine) -> Choice:
    """The stack a run will use: `cpu` or `gpu`."""
    if wanted == "cpu":
        return Choice("cpu", "it was asked for")
    if not machine.gpus:
        return Choice("cpu", machine.no_gpu or "no CUDA device was found")
    gpu = machine.gpus[0]
    if wrong := trouble_with_driver(gpu.driver):
        return Choice("cpu", wrong)
    if gpu.capability and gpu.capability < CAPABILITY:
        return Choice("cpu", f"the {gpu.name} has compute capability {gpu.capability} and the gpu "
                      f"stack needs {CAPABILITY}")
    if machine.packages.get("torch", "").endswith("+cpu"):
        return Choice("cpu", f"there is a {gpu.name}, but the torch that is installed has no CUDA; "
                      "`STACK=gpu make setup` installs the gpu stack")
    return Choice("gpu", f"there is a {gpu.name} with {gpu.memory_gb:.0f} GB")


def trouble_with_driver(driver: str) -> str:
    """Half a sentence if this NVIDIA driver is too old, else empty."""
    major = driver.split(".")[0]
    if not major.isdecimal() or int(major) >= DRIVER:
        return ""
    return f"the NVIDIA driver is {driver} and the gpu stack needs {DRIVER} or newer"


def choose_engines(settings: Settings, machine: Machine) -> Ladder:
    """Every engine that can train these settings here, best first.

    Unsloth + vLLM, then TRL + vLLM, then TRL with transformers; the last has no conditions.
    """
    stack = choose_stack(settings.hardware.stack, machine)
    if stack.value == "cpu":
        return Ladder((Choice(CPU, stack.why),))
    tried, skipped = [], []
    for engine, reasons in ((UNSLOTH, _against_unsloth), (TRL_VLLM, _against_trl_vllm)):
        why = _not_wanted(engine, settings) or reasons(settings, machine)
        if why:
            skipped.append(Choice(engine, why))
        else:
            tried.append(Choice(engine, stack.why))
    wanted = settings.hardware.engine
    if wanted in ("auto", TRL) or not tried:
        why = stack.why if tried or not skipped else skipped[-1].why
        tried.append(Choice(TRL, "it was asked for" if wanted == TRL else why))
    return Ladder(tuple(tried), tuple(skipped))


def _not_wanted(engine: str, settings: Settings) -> str:
    wanted = settings.hardware.engine
    if wanted not in ("auto", engine):
        return f"{TITLES[wanted]} was asked for"
    if not settings.model.fast_inference:
        return "'Fast inference (vLLM)' is off"
    return ""


def _against_unsloth(settings: Settings, machine: Machine) -> str:
    if missing := [name for name in ("unsloth", "vllm") if name not in machine.packages]:
        return f"{' and '.join(missing)} not installed"
    if settings.hardware.processes() > 1:
        return "Unsloth trains on one GPU"
    return ""


def _against_trl_vllm(settings: Settings, machine: Machine) -> str:
    if "vllm" not in machine.packages:
        return "vllm is not installed"
    if settings.model.load_in_4bit:
        return "TRL cannot hand weights in 4 bit to vLLM"
    return ""
