"""Shared by all tests: a lab in an empty root, and one real short run that many tests look at."""

import os
import time

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the lab's workers wait
if "PYTEST_XDIST_WORKER" in os.environ:  # several tests train at once: one core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

from lab.core.catalog import RECIPES  # noqa: E402
from lab.core.rewards import permission  # noqa: E402
from lab.services import machine  # noqa: E402
from lab.services.environment import WARM  # noqa: E402
from lab.services.lab import Lab  # noqa: E402
from lab.services.starting import OFF, warm_up  # noqa: E402

# The same examples each time; `pytest --hypothesis-profile default` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")

QUICK = {  # the starter recipe in small: seconds instead of minutes, same path
    "data.rows": 600, "data.held_out": 24, "train.prompts_per_step": 2,
    "train.num_generations": 4, "train.max_completion_length": 24, "train.max_steps": 6,
    "train.save_steps": 2,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The pages first: they take longest, and a processor would wait for them alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("browser")}
    items.sort(key=lambda item: item.path not in slow)


MANY = 20  # tests that are worth the imports ahead of them


@pytest.fixture(scope="session", autouse=True)
def warm(request, tmp_path_factory):
    """Workers are forked, as those of the app are, where enough tests start some. Apps that are
    started by tests have theirs forked by the same process."""
    items = request.session.items
    many = len(items) > MANY or any(item.get_closest_marker("workers") for item in items)
    warm = warm_up(machine.look(tmp_path_factory.getbasetemp())) if many else None
    while warm is not None and not warm.is_ready and warm.process.poll() is None:
        time.sleep(0.05)  # that its socket is there is all that it tells
    yield
    if warm is not None:
        warm.close()


@pytest.fixture(autouse=True)
def code_is_as_allowed_as_before():
    """A command with --allow-code allows it to its process, which here goes on to other tests."""
    before = os.environ.get(permission.VARIABLE)
    yield
    if before is None:
        os.environ.pop(permission.VARIABLE, None)
    else:
        os.environ[permission.VARIABLE] = before


@pytest.fixture
def anew(monkeypatch):
    """Every worker of this test is a new process."""
    monkeypatch.setenv(WARM, OFF)


@pytest.fixture(scope="module")
def browser():
    from tests.browser import chromium

    with chromium() as browser:
        yield browser


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


@pytest.fixture
def children():
    """Tells which processes of ours were begun since and still live."""
    before = set(psutil.Process().children(recursive=True))
    return lambda: set(psutil.Process().children(recursive=True)) - before
