"""What is known of a model before it is loaded, and what speaks against it: `look` has the whole.

files reads what is small, templates tries a chat template, places and hub know where a model is,
facts puts it together, listed says it of each model that is offered.
"""

from lab.services.models.facts import FIELD, ModelFacts
from lab.services.models.hub import explained, page_of
from lab.services.models.listed import offered
from lab.services.models.look import (
    decided_for,
    longest_of,
    look_at,
    memory_of,
    model_folder,
    model_problems,
    quicker,
)

__all__ = ["FIELD", "ModelFacts", "decided_for", "explained", "longest_of", "look_at", "memory_of",
           "model_folder", "model_problems", "offered", "page_of", "quicker"]
