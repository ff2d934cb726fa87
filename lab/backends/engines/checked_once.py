"""Lets Unsloth check its pass without padding once, not again for each batch that is longer.

Unsloth reads a batch as one stream, and compares it with a pass of its own for every single answer
the first time, and whenever a batch has more tokens or a longer sequence than any before. With 128
answers these are 128 small passes, some of the first ten updates and a late one took so four to ten
times as long as the others (docs/gpu.md). What could change with the length is only how positions
are turned into angles, and for most models that is the same at every length.
"""

import sys

from transformers import TrainerCallback

# Rotary embeddings whose angles depend on how long the longest sequence is (transformers'
# `rope_type`): there Unsloth's caution has a reason.
BY_LENGTH = {"dynamic", "longrope"}
PASSES = ("grad", "nograd")  # Unsloth checks the one that learns and the one that does not apart
ATTRIBUTE = "_unsloth_seq_packing_{kind}_{what}"  # unsloth 2026.10.7


class CheckedOnce(TrainerCallback):
    """After a step in which Unsloth's check passed, its result holds for every length.

    Where it failed nothing is changed: Unsloth learns then with padding, or only short batches
    without.
    """

    def __init__(self, trainer) -> None:
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        if not turns_by_length(self.model.config):
            trainer.add_callback(self)

    def on_step_end(self, args, state, control, **kwargs):
        for kind in PASSES:
            if getattr(self.model, ATTRIBUTE.format(kind=kind, what="ok"), None) is True:
                for what in ("verified_T", "verified_seg"):
                    setattr(self.model, ATTRIBUTE.format(kind=kind, what=what), sys.maxsize)


def turns_by_length(config) -> bool:
    """Whether a model's angles for a position depend on the longest sequence."""
    told = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = {told.get("rope_type"), *(one.get("rope_type") for one in told.values()
                                      if isinstance(one, dict))}
    return bool(kinds & BY_LENGTH)
