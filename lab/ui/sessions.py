"""What gradio keeps of every visit, bounded: without this, visits that are over fill the memory.

gradio keeps the state of 10,000 visits, and of each a copy of the whole page as JSON, which its
deep links alone read; the lab has none. What that saves: docs/security.md.
"""

from copy import copy

import gradio as gr
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import LRUCache

VISITS = 100  # of which the state is kept: what a page has changed of its own choices
UNREAD = 300  # visits whose answers may wait to be fetched


class Visit(SessionState):
    """The state of one page in one browser, without the copy for deep links."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values = {}
        self.state_data = {}
        self._state_ttl = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value) -> None:
        before = self.blocks_config.blocks.get(key)
        if before is not None and before.stateful:
            super().__setitem__(key, value)
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value) -> None:
        pass


class Visits(StateHolder):
    """The visits there are; the one not heard of for longest goes first."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Visit(self.blocks)
        return super().__getitem__(session_id)


def bound(page: gr.Blocks) -> None:
    """Keep little of each visit to a page that is being served, and not of too many."""
    visits = Visits()
    visits.set_blocks(page)
    visits.capacity = VISITS
    page.app.state_holder = visits
    page._queue.pending_messages_per_session = LRUCache(UNREAD)
