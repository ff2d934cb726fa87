"""What is known about this machine: facts gathered by services/machine.py. GB are 1e9 bytes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GpuProcess:
    """Another program that holds memory of a GPU."""

    pid: int
    name: str
    memory_gb: float


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gb: float
    free_gb: float
    driver: str
    capability: float = 0.0  # compute capability, such as 9.0; 0 where the driver does not say
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class Machine:
    system: str
    python: str
    cores: int
    memory_gb: float
    free_memory_gb: float
    free_disk_gb: float
    gpus: tuple[Gpu, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)  # name -> version; missing ones absent
    compiler: bool = True  # a C compiler is there: Triton builds its kernels' launchers with it
    no_gpu: str = ""  # half a sentence why `gpus` is empty, where more is known than that


@dataclass(frozen=True)
class Choice:
    """An automatic choice, with its reason as half a sentence."""

    value: str
    why: str
