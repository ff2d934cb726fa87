"""The app as a real process, and a real Chromium: for tests, benchmarks and screenshots."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from lab.bootstrap import find_browser
from lab.services.workspace import PROJECT
from tests.ports import free_port

TABS = {"start": "Start", "model": "Model & LoRA", "data": "Data", "rewards": "Rewards",
        "train": "Train", "compare": "Compare", "runs": "Runs & export"}


class App:
    """app.py as a process of its own; it can be ended and started again on the same port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> "App":
        """Start it and wait until it serves its page."""
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(self.port), "--root", str(self.root)],
            cwd=PROJECT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url).read()
                return self
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"app.py ended: {self.process.stdout.read().decode()}")

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@contextmanager
def chromium():
    """A headless Chromium that can reach nothing but this machine."""
    found = find_browser()
    if not found:
        raise RuntimeError("No Chromium was found. `make test` installs one where it can.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(found) or found, args=[
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"])
        yield browser
        browser.close()


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
