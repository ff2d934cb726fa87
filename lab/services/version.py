"""Which version of the lab this is: the newest heading of its changelog, and the commit."""

import functools
import subprocess

from lab.services.workspace import PROJECT


@functools.cache
def version() -> str:
    """For example "1.2" or, between two of them, "unreleased, 85c40e9"."""
    try:
        lines = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    heading = next((line[3:].strip() for line in lines if line.startswith("## ")), "unreleased")
    if heading.lower() != "unreleased":
        return heading
    try:
        done = subprocess.run(["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"],
                              capture_output=True, text=True, timeout=10)
        commit = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return ", ".join(filter(None, ("unreleased", commit)))
