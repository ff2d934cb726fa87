"""`make bench`: the benchmark of the stack that this machine has, on a GPU or on the CPU."""

from lab.core.hardware.engines import choose_stack
from lab.services import machine
from lab.services.workspace import PROJECT

if __name__ == "__main__":
    stack = choose_stack("auto", machine.look(PROJECT))
    print(f"The {stack.value} benchmark, because {stack.why}.", flush=True)
    if stack.value == "gpu":
        from tests.bench import gpu as benchmark
    else:
        from tests.bench import cpu as benchmark
    benchmark.main()
