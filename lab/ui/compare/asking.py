"""Asking in Compare: send, retry, edit, stop; where a question comes from; what is taken away."""

import contextlib
import random
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

import gradio as gr

from lab.core.problems import LabError, RunError, explain
from lab.services import votes
from lab.services.lab import Lab
from lab.ui.access import owner_only
from lab.ui.compare import record, scores
from lab.ui.compare.panes import count_of, inputs_of, picked_of
from lab.ui.compare.parts import CompareTab, cleared, conversation, failed, filled, note
from lab.ui.compare.sides import examples_of, judge_of, opening_of
from lab.ui.forms import Form
from lab.ui.talk import Talk
from lab.ui.widgets import FREE, focus_js, problem_in_place

SAMPLING = ("sampling.temperature", "sampling.top_p", "sampling.max_tokens")
LARGEST_SEED = 2**31 - 1
VOTE = "Which answer is better? Vote below: then you see who wrote which."
SAME = "Both said the same, word for word. Vote all the same: then you see who wrote which."
# A reference answer goes with its question; one that was typed for the next question stays.
FORGET_JS = """(question, reference, asked) =>
  asked && question.trim() !== asked.trim() ? ['', ''] : [reference, asked]"""
# In blind mode the focus is led to the vote, once there is something to vote on.
FOCUS_JS = """(...given) => {
  if (document.querySelector('#compare-blind input')?.checked)
    window.labFocus('#vote-left', 600000, '#compare-stop');
  return given;
}"""
TOOK_JS = """const said = document.querySelector('#compare-took [role=status]');
  const say = text => { if (said) said.textContent = text; };"""
COPY_JS = """async markdown => {
  @say
  try {
    await navigator.clipboard.writeText(markdown);
  } catch {  // of a page that is not secure, or without leave
    const area = document.createElement('textarea');
    area.value = markdown;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    if (!done) return say('The browser did not let it be copied.');
  }
  say('Copied.');
}""".replace("@say", TOOK_JS)
SAVE_JS = """turns => {
  @say
  const text = JSON.stringify({format: 1, turns: JSON.parse(turns || '[]')}, null, 2);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'compared.json';
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say('Downloaded compared.json.');
}""".replace("@say", TOOK_JS)

Stops = dict[str, threading.Event]  # by browser tab, while it is being answered


def wire(tab: CompareTab, lab: Lab, form: Form, stops: Stops) -> None:
    """Events of the question and its buttons. `stops` is filled while a tab is being answered."""
    at, panes = tab.asking, inputs_of(tab.panes)
    talk = conversation(tab)
    question = [at.example, at.question, at.reference, tab.asked]

    # In the browser, so that Send never sees the reference of another question.
    at.question.change(None, [at.question, at.reference, tab.asked], [at.reference, tab.asked],
                       js=FORGET_JS, trigger_mode="always_last", **FREE)

    @at.example.input(inputs=[at.example, tab.count], inputs_kwargs=panes,
                      outputs=[*question, *talk], **FREE)
    def take(index: str | None, count: str, **picked) -> dict:
        rows = _rows(lab, count, picked)
        row = rows[int(index)] if (index or "").isdecimal() and int(index) < len(rows) else {}
        return cleared(tab) | _put(tab, row)

    @at.draw.click(inputs=[at.example, tab.count], inputs_kwargs=panes,
                   outputs=[*question, *talk], **FREE)
    def draw(index: str | None, count: str, **picked) -> dict:
        """Another question than the one that stands there, so that each press shows something."""
        place, row = _drawn(lab, count, picked, index, False)
        return gr.skip() if row is None else cleared(tab) | _put(tab, row) | {at.example: place}

    @gr.on([at.clear.click, *(pane.chat.clear for pane in tab.panes)], outputs=talk, **FREE)
    def clear(request: gr.Request) -> dict:
        tab.unvoted.pop(request.session_hash or "", None)
        return cleared(tab)

    at.copy.click(None, tab.markdown, js=COPY_JS, **FREE)
    at.save.click(None, tab.turns, js=SAVE_JS, **FREE)

    @at.edit.click(inputs=[tab.turns, tab.count, at.example], inputs_kwargs=panes,
                   outputs=[*question, *talk], js=focus_js("compare-question textarea"), **FREE)
    def edit(turns: str, count: str, example: str | None, **picked) -> dict:
        """The last question back into its box; what was said before it stays."""
        kept = record.read(turns, count_of(count))
        if not kept:
            return gr.skip()
        last = kept.pop()
        updates = cleared(tab) | {at.question: last["question"], tab.asked: last["question"],
                                  at.reference: _text(last.get("reference"))}
        if kept:
            opening = opening_of(_rows(lab, count, picked), kept, example)
            updates |= {pane.chat: scores.former(opening, kept, side)
                        for side, pane in enumerate(tab.panes[:count_of(count)])}
            updates |= {tab.turns: record.written(kept), tab.markdown: record.markdown(kept)}
            updates |= {button: gr.update(interactive=True) for button in at.after}
        return updates

    @at.stop.click(**FREE)
    def stop(request: gr.Request) -> None:
        if event := stops.get(request.session_hash or ""):
            event.set()

    @owner_only
    async def ask(question: str, reference: str, seed: float | None, turns: str,
                  example: str | None, count: str, blind: bool, request: gr.Request, **given
                  ) -> AsyncIterator[dict]:
        event = threading.Event()
        key = request.session_hash or ""
        stops[key] = event
        tab.unvoted.pop(key, None)
        yield {at.send: gr.update(interactive=False), at.stop: gr.update(interactive=True),
               tab.said: note(_busy_note(lab)), tab.asked: question,
               tab.blind.bar: gr.update(visible=False), tab.blind.next: gr.update(visible=False),
               **{button: gr.update(interactive=False) for button in at.after}}
        ready = {at.send: gr.update(interactive=True), at.stop: gr.update(interactive=False)}
        talks = None
        try:
            talks = _talk(lab, form, question, reference, seed, turns, example,
                          picked_of(given)[:count_of(count)], blind, given)
            async for now in talks.answers(event):
                yield filled(tab, talks, now)
            talks.over = True
            if talks.hidden and not talks.stopped and not any(talks.flaws):
                tab.wait_for_vote(key, talks)
                yield ready | filled(tab, talks) | {tab.blind.bar: gr.update(visible=True),
                                                    tab.said: note(_to_vote(talks))}
            else:
                talks.hidden = False
                yield ready | filled(tab, talks, named=blind)
        except LabError as error:
            yield ready | failed(tab, talks, error.problem) | _again(tab, turns, count)
        except Exception as error:  # an unforeseen one must not leave the buttons as they are
            yield ready | failed(tab, talks, explain(error)) | _again(tab, turns, count)
            raise
        finally:
            event.set()  # on Stop, at the end, and when the page was closed
            if stops.get(key) is event:
                del stops[key]

    @owner_only
    async def retry(question: str, reference: str, seed: float | None, turns: str,
                    example: str | None, count: str, blind: bool, request: gr.Request, **given
                    ) -> AsyncIterator[dict]:
        """The question that was asked last, whatever stands in its box now, with a new seed."""
        last = record.read(turns, count_of(count))[-1:]
        if not last:
            yield {tab.said: problem_in_place(RunError(
                "There is no question to ask again.", next="Ask one first.").problem)}
            return
        question, reference = last[0]["question"], _text(last[0].get("reference"))
        seed = random.SystemRandom().randint(0, LARGEST_SEED)
        yield {at.question: question, at.reference: reference, at.seed: seed}
        async with contextlib.aclosing(ask(question, reference, seed, turns, example, count, blind,
                                           request, **given)) as told:
            async for update in told:
                yield update

    @owner_only
    async def go_on(question: str, reference: str, seed: float | None, turns: str,
                    example: str | None, count: str, blind: bool, request: gr.Request, **given
                    ) -> AsyncIterator[dict]:
        """A question that was not voted on yet, drawn and asked."""
        place, row = _drawn(lab, count, given, example, True)
        if row is not None:
            example, question = place, _text(row.get("question"))
            reference = _text(row.get("answer"))
            yield _put(tab, row) | {at.example: place}
        async with contextlib.aclosing(ask(question, reference, seed, record.NONE, example, count,
                                           blind, request, **given)) as told:
            async for update in told:
                yield update

    for triggers, handler in (([at.send.click, at.question.submit], ask),
                              ([at.retry.click], retry), ([tab.blind.next.click], go_on)):
        gr.on(triggers, handler,
              [at.question, at.reference, at.seed, tab.turns, at.example, tab.count,
               tab.blind.switch],
              [at.send, at.stop, at.seed, *question, *talk], js=FOCUS_JS,
              inputs_kwargs=panes | {key: form.widgets[key] for key in SAMPLING},
              trigger_mode="once", concurrency_id="chat", concurrency_limit=1,
              api_visibility="private", show_progress="hidden")


def _talk(lab: Lab, form: Form, question: str, reference: str, seed: float | None, turns: str,
          example: str | None, picked: list, blind: bool, given: Mapping[str, Any]) -> Talk:
    """The question as it is put. A blind one begins anew, its sides at places that are drawn."""
    settings = form.read({key: given[key] for key in SAMPLING})
    if not blind:
        return Talk(lab, settings, question, reference, seed_of(seed), turns, picked, example)
    run = judge_of(lab, [who for who, _ in picked])
    random.SystemRandom().shuffle(picked)
    talk = Talk(lab, settings, question, reference, seed_of(seed), record.NONE, picked, example,
                judge=run and run.id)
    if len({(one and one.id, weights) for one, weights in zip(talk.runs, talk.weights,
                                                              strict=True)}) == 1:
        raise RunError("Both sides are the same, so there is nothing to vote on.",
                       next="Switch Blind off and pick another run or checkpoint.")
    talk.hidden = True
    return talk


def _to_vote(talk: Talk) -> str:
    return SAME if len({update.text for update in talk.updates}) == 1 else VOTE


def _again(tab: CompareTab, turns: str, count: str) -> dict:
    """After a failure the buttons of what was said before work again."""
    there = bool(record.read(turns, count_of(count)))
    return {button: gr.update(interactive=there) for button in tab.asking.after}


def _put(tab: CompareTab, row: Mapping[str, Any]) -> dict:
    """Updates that put a row's question and reference into their boxes."""
    asked = _text(row.get("question"))
    return {tab.asking.question: asked, tab.asked: asked,
            tab.asking.reference: _text(row.get("answer"))}


def _rows(lab: Lab, count: str, picked: Mapping[str, Any]) -> list[dict]:
    return examples_of(lab, judge_of(lab, [who for who, _ in picked_of(picked)[:count_of(count)]]))


def _drawn(lab: Lab, count: str, picked: Mapping[str, Any], index: str | None, fresh: bool
           ) -> tuple[str, dict | None]:
    """(place, row) of any question but this one; None where there is no other. `fresh`: one that
    was not voted on, as long as there is one."""
    rows = _rows(lab, count, picked)
    others = [place for place in range(len(rows)) if str(place) != index]
    if fresh:
        run = judge_of(lab, [who for who, _ in picked_of(picked)[:count_of(count)]])
        voted = {vote["question"] for vote in votes.of_run(run.folder)} if run else set()
        others = [place for place in others
                  if rows[place]["question"].strip() not in voted] or others
    if not others:
        return index or "", None
    place = random.choice(others)
    return str(place), rows[place]


def seed_of(value: float | None) -> int:
    """Raises RunError for what is no seed."""
    if value is None or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise RunError("The seed cannot be used.", "It must be a whole number from 0 to "
                       f"{LARGEST_SEED}.", "Take 3407, or any other.")
    return int(value)


def _busy_note(lab: Lab) -> str:
    if run := lab.runs.active():
        return (f"{run.name} is training: answers come slower meanwhile, and so do its steps. "
                "What was saved answers, not the step it is at; under each answer stands "
                "which step that is.")
    return ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)
