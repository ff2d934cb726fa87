"""The browser of the tests: where it is, and how it comes (`python tests/chromium.py`)."""

import os
import shutil
import subprocess
import sys

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
)


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def install() -> None:
    """Chromium by apt, where there is apt; never stops to ask for a password."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    for words in ("update", "install -y --no-install-recommends chromium"):
        if subprocess.call([*sudo, "apt-get", "-qq", *words.split()], stdin=subprocess.DEVNULL):
            return


if __name__ == "__main__":
    if not find_browser() and shutil.which("apt-get"):
        print("Installing Chromium for the browser tests.", flush=True)
        install()
    if not find_browser():
        sys.exit("The browser tests cannot run, because neither Chromium nor Google Chrome was "
                 "found and installing it did not work; install one (Debian: sudo apt-get install "
                 'chromium) or leave these tests out: make test ARGS=\'-m "not browser and not '
                 "slow and not gpu and not vllm\"'.")
