"""Shared by all tests: a lab in an empty root, and one real short run that many tests look at."""

import os

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}

import pytest  # noqa: E402

from lab.core.catalog import RECIPES  # noqa: E402
from lab.services.lab import Lab  # noqa: E402

QUICK = {  # the starter recipe in small: seconds instead of minutes, same path
    "data.rows": 600, "data.held_out": 24, "train.prompts_per_step": 2,
    "train.num_generations": 4, "train.max_completion_length": 24, "train.max_steps": 6,
    "train.save_steps": 2,
}


@pytest.fixture
def quick():
    return RECIPES["starter"].settings().with_values(QUICK)


@pytest.fixture
def lab(tmp_path):
    lab = Lab.at(tmp_path / "runs")
    yield lab
    lab.chat.close()
    for folder in lab.workspace.folders():
        lab.jobs.kill(folder.id)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(lab, run id) of a run that a real worker has finished; look, do not change."""
    lab = Lab.at(tmp_path_factory.mktemp("finished"))
    folder = lab.jobs.start(RECIPES["starter"].settings().with_values(QUICK), "finished run")
    run = lab.jobs.wait(folder.id)
    assert run.status == "finished", folder.log.read_text()
    yield lab, folder.id
    lab.chat.close()
