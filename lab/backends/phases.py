"""Says what vLLM is busy with while it starts inside this process: from its own log lines."""

import contextlib
import logging
from collections.abc import Iterator

from lab.core import events

# Words of vllm 0.26.0's log, and what they mean to a person who waits.
MOMENTS = (
    ("Starting to load model", "Loading the weights into vLLM"),
    ("Loading model from scratch", "Loading the weights into vLLM"),
    ("Dynamo bytecode transform", "Compiling for vLLM"),
    ("Compiling a graph", "Compiling for vLLM"),
    ("Initial profiling", "Measuring the GPU's memory"),
    ("Available KV cache memory", "Warming vLLM up"),
    ("init engine", "vLLM is ready"),
)


class Phases(logging.Handler):
    """Turns known log lines into `phase` events, each only once in a row."""

    def __init__(self, say) -> None:
        super().__init__(logging.INFO)
        self.say, self.last = say, ""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        for words, text in MOMENTS:
            if words in line and text != self.last:
                self.last = text
                self.say(events.Phase(text))
                return


@contextlib.contextmanager
def of_vllm(say) -> Iterator[None]:
    """While this lasts, vLLM's log lines become phases."""
    handler = Phases(say)
    logging.getLogger("vllm").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("vllm").removeHandler(handler)
