"""Everything the app and the commands work with, made once from a root folder."""

from dataclasses import dataclass
from pathlib import Path

from lab.services.chat import Chat
from lab.services.jobs import Jobs
from lab.services.runs import Runs
from lab.services.workspace import Workspace


@dataclass
class Lab:
    workspace: Workspace
    jobs: Jobs
    runs: Runs
    chat: Chat
    allow_code: bool = False

    @classmethod
    def at(cls, root: Path | str | None = None, allow_code: bool = False) -> "Lab":
        workspace = Workspace(root)
        chat = Chat(workspace)
        jobs = Jobs(workspace, free_gpu=chat.close)
        return cls(workspace, jobs, jobs.runs, chat, allow_code)
