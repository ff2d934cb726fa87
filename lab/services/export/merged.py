"""The adapter merged into its base: a 16-bit model that loads without peft."""

import shutil
from pathlib import Path

from lab.services.environment import worker_environment
from lab.services.export.adapter import copy_tokenizer
from lab.services.export.card import OWN_REWARDS
from lab.services.export.making import Work
from lab.services.models import model_folder


def write_merged(work: Work, target: Path) -> None:
    """Merge in a child and write the model. Raises a LabError."""
    settings = work.source.run.settings
    target.mkdir(parents=True, exist_ok=True)
    # On the CPU: a run that trains keeps its GPU, and vLLM its share.
    work.worker("merge", "merging", {
        "model": model_folder(settings), "adapter": str(work.source.adapter.path),
        "template_arguments": settings.model.chat_template_kwargs, "out": str(target)},
        worker_environment() | {"CUDA_VISIBLE_DEVICES": ""})
    copy_tokenizer(work.source.adapter.path, target)  # as it was trained with
    if settings.rewards.own:
        shutil.copyfile(work.source.folder.rewards, target / OWN_REWARDS)
