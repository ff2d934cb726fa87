"""Is it in the asked language: a shape that looks at scripts and at the commonest words."""

import re
from collections import Counter
from typing import Annotated

from lab.core.knobs import Knob
from lab.core.prompts import in_format
from lab.core.rewards.answer_text import without_tags
from lab.core.rewards.registry import SHAPE
from lab.core.rewards.validators import validator

# The words that a text of some length cannot do without, those first that few others have.
COMMON = {name: frozenset(words.split()) for name, words in {
    "english": "the of and to in is it that was for on are with as be this have from or by not "
               "but they which you he she at his her so has we how many each if then there their "
               "an all will when makes gives left more than",
    "german": "der die das und ist nicht ein eine einen einem zu den mit von auf f\u00fcr im dem "
              "sich des auch es an werden aus er hat dass sie nach wird bei sind noch wie einer "
              "haben war wir ich kann also jede jeder dann oder aber",
    "french": "le la les des et est un une dans que qui pour pas au sur du ce avec il elle sont "
              "par plus nous vous ne se aux cette on donc chaque ont \u00e0 en mais ou o\u00f9 "
              "leur ses",
    "spanish": "el la los las y es en que un una por con no para su se del al lo como m\u00e1s "
               "pero sus este esta son entonces cada tiene hay ya muy si sin sobre o cuando",
    "italian": "il lo gli e \u00e8 di che la un una per non con del della sono si da come pi\u00f9 "
               "ma anche nel alla ha questo questa quindi ogni i le dei delle ci se o quando",
    "portuguese": "o os a as e \u00e9 de que um uma para n\u00e3o com do da em no na por mais se "
                  "como mas foi ao ele ela s\u00e3o ent\u00e3o cada tem dos das seu sua quando ou",
    "dutch": "de het een en van is dat niet op te zijn voor met die in er aan ook als maar om dan "
             "bij nog naar heeft ze wordt dus elke elk hij zij we wij of deze dit hoeveel",
}.items()}

_KANA, _HAN = "\u3040-\u30ff", "\u3400-\u4dbf\u4e00-\u9fff"
SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in {
    "chinese": _HAN, "japanese": _KANA + _HAN, "korean": "\u1100-\u11ff\uac00-\ud7af",
    "cyrillic": "\u0400-\u052f", "greek": "\u0370-\u03ff", "arabic": "\u0600-\u06ff\u0750-\u077f",
    "hebrew": "\u0590-\u05ff", "devanagari": "\u0900-\u097f", "thai": "\u0e00-\u0e7f",
}.items()}
LANGUAGES = (*COMMON, *SCRIPTS)

FEWEST_WORDS = 4  # from which on a language shows
FEWEST_COMMON = 0.1  # share of common words, of those that are words
MOST_KANA, LEAST_KANA = 0.05, 0.1  # of the letters: more is not Chinese, less is not Japanese

_LANGUAGES_WITH = {word: tuple(name for name, common in COMMON.items() if word in common)
                   for word in frozenset().union(*COMMON.values())}
_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[a-z\u00df-\u024f]+")
_MARKUP = re.compile(r"\\[A-Za-z]+|```.*?```", re.DOTALL)

_ENGLISH = "There are six boxes with seven apples in each of them, so that makes 42."
_GERMAN = "Es sind sechs Kisten mit sieben \u00c4pfeln in jeder, und das macht zusammen 42."


@validator("Language", kind=SHAPE, examples=[
    (in_format(_ENGLISH, "42"), {}, True),
    (in_format(_GERMAN, "42"), {}, False),
    ("\u516d\u4e2a\u76d2\u5b50\uff0c\u6bcf\u4e2a\u6709\u4e03\u4e2a\u82f9\u679c\uff0c\u5171"
     "\u56db\u5341\u4e8c\u4e2a\u3002", {}, False),
    ("6 * 7 = 42", {}, False),  # no words, no language
    (in_format("6 * 7 = 42", "42"), {}, False),
    ("", {}, False),
])
def language(completion: str, *, of: Annotated[str, Knob(
        "Language", "The last six are scripts, in which several languages are written.",
        choices=LANGUAGES)] = "english", share: Annotated[float, Knob(
            "Share of letters", "So many of the letters are of its script.", low=0, high=1,
            step=0.05)] = 0.6) -> bool:
    """The text is in this language, as far as its script and its commonest words tell: for seven
    languages in Latin letters, no other of them has as many of its common words in it. A text of
    fewer than four words shows no language and does not pass. It is a rule of thumb: it takes a
    few foreign words for nothing, and cannot tell Russian from Bulgarian."""
    text = _MARKUP.sub(" ", without_tags(completion)).lower()
    letters = sum(map(str.isalpha, text))
    if not letters:
        return False
    if of in SCRIPTS:
        kana = len(re.findall(f"[{_KANA}]", text)) / letters
        if of == "chinese" and kana > MOST_KANA or of == "japanese" and kana < LEAST_KANA:
            return False
        own = len(SCRIPTS[of].findall(text))
        return own >= FEWEST_WORDS and own / letters >= share
    words = _WORD.findall(text)
    latin = letters if text.isascii() else sum(map(len, _LATIN.findall(text)))
    if len(words) < FEWEST_WORDS or latin / letters < share:
        return False
    found = Counter(name for word in words for name in _LANGUAGES_WITH.get(word, ()))
    return found[of] == max(found.values(), default=0) and found[of] >= FEWEST_COMMON * len(words)
