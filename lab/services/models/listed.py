"""The models that are offered by name, each with what a person weighs before choosing it."""

from lab.core.catalog import MODELS, KnownModel
from lab.core.hardware.machine import Machine
from lab.core.settings import STARTER, Settings
from lab.services.models.hub import folder_in_cache
from lab.services.models.look import memory_of

# The least that is still GRPO: what does not fit with these fits with nothing.
LEAST = {"train.prompts_per_step": 1, "train.num_generations": 2, "model.max_seq_length": 512,
         "train.max_prompt_length": 256, "train.max_completion_length": 64,
         "train.answers_at_once": 1}


def offered(machine: Machine) -> list[tuple[str, str]]:
    """[(title with what speaks for and against it here, name)], in the catalogue's order."""
    return [(" · ".join([row.title, *_badges(row, machine)]), row.name) for row in MODELS]


def _badges(row: KnownModel, machine: Machine) -> list[str]:
    found = []
    if row.name != STARTER:
        here = folder_in_cache(row.name) or row.in_4bit and folder_in_cache(row.in_4bit)
        found.append("downloaded" if here else f"{2 * row.parameters / 1000:.1f} GB to download")
    if row.gated:
        found.append("gated")
    needed = memory_of(Settings().with_values({"model.name": row.name, **LEAST}), machine)
    if needed and not needed.fits:
        found.append(f"too big here: needs {needed.total_gb:.0f} GB")
    return found
