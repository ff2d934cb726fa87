"""Who may do what: on a Space its owner trains and visitors look; elsewhere everybody may."""

import contextlib
import functools
import importlib
import inspect
import os
import time
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from lab.core.hardware.engines import choose_stack
from lab.core.problems import RunError
from lab.core.rewards import permission
from lab.services import machine
from lab.services.lab import Lab
from lab.services.space import FOLDER, VOLUME, Space
from lab.ui.widgets import FREE, explained

# What gradio's sign-in is made of: gradio[oauth], which a Space installs.
PACKAGES = ("authlib.integrations.starlette_client", "itsdangerous")


def here() -> Space | None:
    return Space.from_environment(os.environ)


def owner_only(function: Callable) -> Callable:
    """A handler that a visitor cannot run, whatever the page shows: it is refused with a toast.

    Directly above the handler's `def`, below every other decorator.
    """
    refuse = explained(_refuse_visitors)
    if inspect.isasyncgenfunction(function):
        @functools.wraps(function)
        async def guarded(*args, **kwargs):
            refuse()
            # Closed with this one, so that its `finally` runs when the page goes away.
            async with contextlib.aclosing(function(*args, **kwargs)) as items:
                async for item in items:
                    yield item
    elif inspect.isgeneratorfunction(function):
        @functools.wraps(function)
        def guarded(*args, **kwargs):
            refuse()
            yield from function(*args, **kwargs)
    elif inspect.iscoroutinefunction(function):
        @functools.wraps(function)
        async def guarded(*args, **kwargs):
            refuse()
            return await function(*args, **kwargs)
    else:
        @functools.wraps(function)
        def guarded(*args, **kwargs):
            refuse()
            return function(*args, **kwargs)
    return guarded


def allows(session: Mapping[str, Any]) -> bool:
    """Whether who holds this session may train here."""
    space = here()
    return space is None or space.lets(*person_of(session))


def person_of(session: Mapping[str, Any]) -> tuple[str, str]:
    """(username, user id) of who signed in; empty for a visitor, or when the sign-in is over."""
    signed_in = session.get("oauth_info") or {}
    ends = signed_in.get("expires_at")
    if ends is not None and ends < time.time():
        return "", ""
    person = signed_in.get("userinfo") or {}
    return person.get("preferred_username") or "", person.get("sub") or ""


def _session() -> Mapping[str, Any]:
    """The session of who called the handler that runs now: signed by the server, so not to be
    forged. Empty where nobody can sign in."""
    request = LocalContext.request.get(None)
    request = getattr(request, "request", None) or request
    return (getattr(request, "scope", None) or {}).get("session") or {}


def token_of_caller() -> str:
    """The Hub's token of who called the handler that runs now; empty off a Space, where the local
    login is taken. Raises RunError for who has not signed in: a Space's own token is its owner's.
    """
    if here() is None:
        return ""
    session = _session()
    token = (session.get("oauth_info") or {}).get("access_token") if person_of(session)[0] else ""
    if not token:
        raise RunError("Nothing can be pushed without a sign-in.", "It is pushed in your name.",
                       "Sign in at the top of the page.")
    return token


def may_train() -> bool:
    """Whether who called the handler that runs now may train here."""
    return allows(_session())


def _refuse_visitors() -> None:
    if not may_train():
        space = here()
        raise RunError(f"Only {space.owner}, who owns this Space, may do that.",
                       f"Everybody else can look. {_who(_session())}".strip(),
                       "Sign in at the top of the page." if can_sign_in(space) else
                       _no_sign_in(space))


def guard_code() -> None:
    """Code of one's own, keys and the network are for those who may train, wherever a reward runs
    in the page's process."""
    permission.caller.may = may_train


def can_sign_in(space: Space) -> bool:
    return not space.without and not missing_packages()


def missing_packages() -> str:
    """Why the packages of the sign-in cannot be loaded; empty if they can."""
    try:
        for name in PACKAGES:
            importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return ""


def _no_sign_in(space: Space) -> str:
    """Why nobody can sign in, and how to change that."""
    if space.without:
        why = (f"{', '.join(space.without)} not set. Put `hf_oauth: true` into the front matter "
               "of the Space's README and restart it")
    else:
        why = f"{missing_packages()}. Install gradio[oauth]"
    return (f"Signing in is off: {why}. Or, in a private Space, set the variable GRPO_LAB_OPEN to "
            "1: then everybody who can open it may train.")


def _who(session: Mapping[str, Any]) -> str:
    name, _ = person_of(session)
    return f"You are signed in as {name}." if name else ""


def build_notes(lab: Lab, page: gr.Blocks) -> Callable[..., None]:
    """On a Space, what one must know about it and the way to sign in; nothing anywhere else.

    Returns what switches the given buttons off for visitors, to be called once they exist.
    """
    space = here()
    if space is None:
        return lambda *buttons: None
    with gr.Column(elem_classes="space", elem_id="space"):
        gr.HTML("".join(f"<p>{text}</p>" for text in notes(space, lab)), elem_id="space-notes")
        who = gr.HTML(who_html(space, {}), elem_id="space-who")
        if can_sign_in(space):  # elsewhere the button would keep the page from starting
            gr.LoginButton(size="md", scale=0, min_width=220, elem_id="sign-in")

    def switch(*buttons: gr.components.Component) -> None:
        def look() -> list:
            return [who_html(space, _session()),
                    *(gr.update(interactive=allows(_session())) for _ in buttons)]

        page.load(look, outputs=[who, *buttons], **FREE)

    return switch


def notes(space: Space, lab: Lab) -> list[str]:
    """What is particular about this Space, as HTML."""
    found = []
    stack = choose_stack("auto", machine.look(lab.workspace.root))
    if stack.value == "cpu":
        settings = _link(f"{space.page}/settings", "Settings")
        change = f"choose one under {settings}, Hardware, or duplicate the Space"
        found.append("<b>This Space trains on the CPU</b>, because " + escape(stack.why) +
                     ". The starter recipe learns here in some minutes; recipes for larger models "
                     f"need a GPU that is yours: {change}.")
    if not space.keeps(lab.workspace.root):
        found.append("<b>Runs are kept on this Space's own disk and are gone after a restart</b>: "
                     f"attach storage under Settings, mounted at {VOLUME}; the lab then keeps them "
                     f"in {VOLUME}/{FOLDER}.")
    return found


def _link(address: str, text: str) -> str:
    # In a tab of its own: the Hub does not let itself be shown inside its own frame.
    return f"<a href='{escape(address)}' target='_blank' rel='noreferrer'>{text}</a>"


def who_html(space: Space, session: Mapping[str, Any]) -> str:
    """What who is here may do, and why."""
    if space.open:
        said = ("Everybody who can open this Space may train here, because GRPO_LAB_OPEN is set.")
    elif allows(session):
        said = f"{_who(session)} You can train here."
    else:
        owner = f"<b>{escape(space.owner)}</b>"
        copy = _link(f"{space.page}?duplicate=true", "a copy of your own")
        said = (f"{escape(_who(session))} You can look at everything. Only {owner}, who owns this "
                "Space, can start, stop, resume, name, delete, export runs, load data and ask a "
                f"model, since they use a machine that {owner} pays for. To train, make {copy}.")
        said += ("" if person_of(session)[0] else f" If you are {owner}, sign in.") \
            if can_sign_in(space) else f" {escape(_no_sign_in(space))}"
        return f"<p class='visitor'>{said.strip()}</p>"
    return f"<p>{escape(said.strip())}</p>"
