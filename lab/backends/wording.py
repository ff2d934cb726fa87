"""Fits a tokenizer to the lab: its chat template, its end and padding tokens, its special tags.

What is done here is done to the tokenizer itself, so that TRL, Unsloth and vLLM see it too, and it
is saved beside an adapter. Before the start the app tells a person of each
(lab/core/models/tokens.py and template.py).
"""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PretrainedConfig

from lab.core.models import template
from lab.core.models.tokens import special_tags
from lab.core.problems import BadModel, reading_files_of_a_model


def load_tokenizer(model: str, arguments: str = ""):
    """The tokenizer of a model folder or Hub id; `arguments` are of its chat template. Raises
    BadModel."""
    with reading_files_of_a_model("model's tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        tokenizer("Some files load and fail here.")
        return prepare(tokenizer, model, arguments)


def prepare(tokenizer, model: str, arguments: str = ""):
    """The same for a tokenizer that something else has loaded.

    Raises BadModel where there is no template: without one, a conversation has no text; and where
    nothing ends an answer.
    """
    if isinstance(tokenizer.chat_template, dict):  # several, by name
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if not tokenizer.chat_template:
        raise BadModel("This model has no chat template.",
                       f"The tokenizer of {model} does not say how a conversation is written.",
                       "Choose an instruct or chat variant of it.")
    _end_and_pad(tokenizer, model)
    _keep_tags(tokenizer)
    told = template.template_arguments(arguments)
    tokenizer.chat_template = template.prepared(tokenizer.chat_template, told, True)
    bare, whole = template.conversations()
    if not template.seen([_tried(tokenizer, bare), _tried(tokenizer, whole)], []).takes_system:
        tokenizer.chat_template = template.prepared(tokenizer.chat_template, {}, False)
    return tokenizer


def _tried(tokenizer, conversation: list[dict]) -> dict[str, str]:
    try:
        return {"text": render(tokenizer, conversation)}
    except Exception as error:  # a template says by any of them what it does not take
        return {"error": str(error) or type(error).__name__}


def _end_and_pad(tokenizer, model: str) -> None:
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    inner = config.get_text_config()
    rows = getattr(inner, "vocab_size", None) or len(tokenizer)
    if tokenizer.eos_token_id is None:
        ends = [one for one in ends_of(model) if one < min(rows, len(tokenizer))]
        if not ends:
            raise BadModel("This model has no end-of-text token.", "Neither its tokenizer nor its "
                           "configuration names one: no answer would ever end.",
                           "Add eos_token to tokenizer_config.json, or choose another model.")
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def ends_of(model: str) -> list[int]:
    """The tokens that end an answer, as the generation's configuration or the model's says in so
    many words: a family's default is a token of another tokenizer."""
    try:
        ends = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # it has none
        ends = None
    if ends is None:
        told, _ = PretrainedConfig.get_config_dict(model)
        ends = told.get("eos_token_id", (told.get("text_config") or {}).get("eos_token_id"))
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _keep_tags(tokenizer) -> None:
    """Let decoding leave tags in the text that the tokenizer calls special: rewards look for them.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None:
        return
    known = {one.content for one in tokenizer.added_tokens_decoder.values() if one.special}
    tags = special_tags(known, [getattr(tokenizer, name) for name in
                                ("bos_token", "eos_token", "unk_token", "pad_token")])
    if not tags:
        return
    told = json.loads(backend.to_str())
    for one in told["added_tokens"]:
        one["special"] = one["special"] and one["content"] not in tags
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(told))


def stop_tokens(model, tokenizer) -> list[int]:
    """Every token that ends an answer: the model's own, and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return [one for one in dict.fromkeys([*ends, tokenizer.eos_token_id]) if one is not None]


def render(tokenizer, conversation: Sequence[dict]) -> str:
    """The exact text that the model sees before its answer."""
    return tokenizer.apply_chat_template(list(conversation), tokenize=False,
                                         add_generation_prompt=True)


def to_tokens(tokenizer, text: str) -> list[int]:
    """Tokens of a rendered prompt; the template has written its special tokens already."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def opened(tokenizer) -> str:
    """What the prompt has written of the answer already: "<think>\\n", or nothing. It belongs to
    the text of each answer, wherever that is scored or shown."""
    known = getattr(tokenizer, "_lab_opened", None)
    if known is None or known[0] != tokenizer.chat_template:
        known = (tokenizer.chat_template,
                 template.opened(render(tokenizer, template.conversations()[0])))
        tokenizer._lab_opened = known
    return known[1]


def to_text(tokenizer, ids: Sequence[int]) -> str:
    """An answer as rewards and people see it."""
    return opened(tokenizer) + tokenizer.decode(ids, skip_special_tokens=True)
