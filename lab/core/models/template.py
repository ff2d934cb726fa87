"""What a chat template does with a conversation, and what is written before it to suit the lab.

The lab changes nothing in how a template writes; it only puts lines before it, which transformers,
TRL and vLLM then all read: arguments that were set, and, where it takes no system turn, one that
moves the system prompt to the question.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.core.prompts import THOUGHT

# What apply_chat_template itself gives, and what jinja has: no arguments of a template's own.
GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
         "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token",
         "additional_special_tokens", "raise_exception", "strftime_now", "namespace", "range",
         "dict", "lipsum", "cycler", "joiner", "image_token", "video_token", "audio_token"}
SYSTEM, QUESTION = "grpo-lab-system-prompt", "grpo-lab-question"  # what a template is tried with
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPEN = re.compile(rf"<({'|'.join(THOUGHT)})>\s*$")

# `set` inside `if` is seen after it: jinja's `if` is no scope of its own.
_NO_SYSTEM = """\
{%- if messages and messages[0]['role'] == 'system' %}
{%- if messages | length > 1 and messages[1]['role'] == 'user' %}
{%- set messages = [{'role': 'user', 'content': (messages[0]['content'] | trim) + '\\n\\n' \
+ messages[1]['content']}] + messages[2:] %}
{%- else %}
{%- set messages = [{'role': 'user', 'content': messages[0]['content'] | trim}] + messages[1:] %}
{%- endif %}
{%- endif %}
"""


@dataclass(frozen=True)
class Template:
    """What was seen when a template wrote two conversations, without and with a system turn."""

    prompt: str = ""  # the one without, as it was written
    wrong: str = ""  # why it cannot write that one
    hangs: bool = False  # it did not end, or filled the memory
    takes_system: bool = True
    names: tuple[str, ...] = ()  # arguments of its own that it asks for

    @property
    def opens(self) -> str:
        """What the prompt has opened for the answer: "<think>", or nothing."""
        return opened(self.prompt).strip()


def conversations() -> list[list[dict[str, str]]]:
    """The two that a template is tried with: `seen` reads what came of them."""
    asked = {"role": "user", "content": QUESTION}
    return [[asked], [{"role": "system", "content": SYSTEM}, asked]]


def seen(written: list[Mapping[str, str]], names: list[str]) -> Template:
    """`written`: {"text"} or {"error"} for each of `conversations`."""
    bare, whole = written
    wrong = bare.get("error", "")
    if not wrong and QUESTION not in bare["text"]:
        wrong = "the question is not in what it writes"
    text = whole.get("text", "")
    return Template(bare.get("text", ""), wrong, takes_system=SYSTEM in text and QUESTION in text,
                    names=tuple(sorted(set(names) - GIVEN)))


def opened(prompt: str) -> str:
    """The end of a prompt that the answer begins inside of: "<think>\\n", or nothing."""
    found = _OPEN.search(prompt[-200:])
    return found[0] if found else ""


def is_prepared(template: str) -> bool:
    """Whether lines of the lab's may stand before it, see `prepared`. A template that begins with
    such a line by itself is taken for one: no harm comes of it."""
    return template.startswith(("{%- set ", _NO_SYSTEM.partition("\n")[0]))


def prepared(template: str, arguments: Mapping[str, Any], takes_system: bool) -> str:
    """The template with the lab's lines before it, each whole: a newline after a tag is not
    written, so that its own beginning stays what it was."""
    lines = [f"{{%- set {name} = {_literal(value)} %}}\n" for name, value in arguments.items()]
    return "".join(lines) + ("" if takes_system else _NO_SYSTEM) + template


def template_arguments(text: str) -> dict[str, Any]:
    """{"enable_thinking": False} of "enable_thinking=false", or of a JSON object. Values are true,
    false, none, numbers or text. Raises ValueError with half a sentence."""
    text = text.strip()
    if not text:
        return {}
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is no JSON object") from None
    else:
        told = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value:
                raise ValueError(f"must be written name=value, and has {part.strip()[:60]!r}")
            told[name] = _value(value)
    for name, value in told.items():
        if not _NAME.fullmatch(name) or name in GIVEN:
            raise ValueError(f"cannot set {name[:60]!r}" + (
                ": the lab gives that itself" if name in GIVEN else ", which is no name"))
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"has a value that is no text, number, true or false: {name}")
    return told


def wrong_arguments(text: Any) -> str | None:
    """Half a sentence for a text that `template_arguments` cannot read, else None."""
    try:
        template_arguments(text)
    except ValueError as error:
        return str(error)
    return None


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("\"'")


def _literal(value: Any) -> str:
    """A value as jinja writes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # a tag must not end inside of it
        return json.dumps(value, ensure_ascii=False).replace("%", "\\x25").replace("{", "\\x7b") \
            .replace("}", "\\x7d").replace("#", "\\x23")
    return repr(value)
