"""Everything the app and the commands work with, made once from a root folder."""

from dataclasses import dataclass
from pathlib import Path

from lab.core.rewards import permission
from lab.services.chat import Chat
from lab.services.doctor import Doctor
from lab.services.export.jobs import Exports
from lab.services.jobs import Jobs
from lab.services.queue import Queue
from lab.services.runs import Runs
from lab.services.sets import Sets
from lab.services.trash import Trash
from lab.services.workspace import Workspace


@dataclass
class Lab:
    workspace: Workspace
    jobs: Jobs
    runs: Runs
    chat: Chat
    doctor: Doctor
    sets: Sets
    queue: Queue
    exports: Exports
    trash: Trash

    @classmethod
    def at(cls, root: Path | str | None = None, allow_code: bool = False) -> "Lab":
        """`allow_code`: own reward code may run, in this process and those that it starts."""
        if allow_code:
            permission.allow_code()
        workspace = Workspace(root)
        chat = Chat(workspace)
        jobs = Jobs(workspace, free_gpu=chat.close)
        return cls(workspace, jobs, jobs.runs, chat, Doctor(jobs.runs), Sets(workspace),
                   Queue(workspace, jobs), Exports(workspace, free_gpu=chat.close),
                   Trash(workspace))
