"""Looks at the base model of a run before it is loaded: its facts, and what speaks against it."""

from collections.abc import Iterable
from dataclasses import replace

from lab.core.catalog import known_model
from lab.core.hardware.cures import Cure, memory_problems, roomier
from lab.core.hardware.engines import choose_engines
from lab.core.hardware.machine import Machine
from lab.core.hardware.memory import Estimate, decided, estimate
from lab.core.models.modules import target_problems
from lab.core.models.template import Template, opened, template_arguments
from lab.core.models.tokens import token_problems
from lab.core.problems import BadSettings, LabError, Problem
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.registry import SHAPE
from lab.core.rewards.scoring import score
from lab.core.settings import CPU, STARTER, Settings
from lab.services.models.facts import FIELD, HANGS, ModelFacts, facts_of, refuse_files, template_of
from lab.services.models.files import Files, read
from lab.services.models.hub import LOG_IN, cached, fetched, folder_in_cache, logged_in, page_of
from lab.services.models.places import folder_of, named, refuse_without_weights

ARGUMENTS = "model.chat_template_kwargs"
NO_TEMPLATE = Problem(
    "This model has no chat template.", "It is a base model: nothing says how a conversation with "
    "it is written.", "Choose its instruct or chat variant.", FIELD)


def model_folder(settings: Settings) -> str:
    """Where the base model's files are: a folder, or a Hub id as it is.

    Raises BadSettings for a folder without a model in it, and when the lengths are more than
    its `max_position_embeddings`; BadModel for files that must not be loaded.
    """
    name = named(settings.model.name)
    folder = folder_of(name)
    if folder is None:
        if there := folder_in_cache(name):
            refuse_files(read(there))
        return name
    refuse_without_weights(folder)
    refuse_files(read(folder))
    longest = longest_of(settings)
    if longest and settings.model.max_seq_length > longest:
        raise _too_long(settings, longest)
    return str(folder.resolve())


def longest_of(settings: Settings) -> int | None:
    """The most tokens that a local model was made for; None where its files do not say."""
    try:
        folder = folder_of(named(settings.model.name))
    except LabError:
        return None
    return facts_of("", "", folder).longest if folder else None


def look_at(name: str, fetch: bool = False) -> ModelFacts:
    """The facts of a model: from the catalogue, its folder, or the local cache of the Hub.

    Where none of them has it, the Hub is asked with `fetch`, for a few small files and with the
    person's own login; without, everything is unknown. Raises BadSettings for what is no name of
    a model, BadModel where the Hub does not give it.
    """
    name = named(name)
    if row := known_model(name):
        there = folder_of(name) if name == STARTER else folder_in_cache(name)
        shape = replace(row.shape, fused=row.shape.fused and name == row.name)  # apart in its twin
        return ModelFacts(name, "catalogue", shape, row.parameters, row.licence,
                          row.gated and name == row.name, True, row.shape.longest, row.in_4bit,
                          row.note, files=read(there) if there else None)
    if folder := folder_of(name):
        return facts_of(name, "folder", folder)
    found = cached(name)
    if found or not fetch:
        return found or ModelFacts(name)
    return fetched(name)


def model_problems(settings: Settings, machine: Machine) -> list[Problem]:
    """What speaks against this model on this machine, as far as it is known without a download."""
    try:
        facts = look_at(settings.model.name)
        if facts.files:
            refuse_files(facts.files)
    except LabError as error:
        return [error.problem]
    found = [facts.problem] if facts.problem else []
    if facts.chat_template is False:
        found.append(NO_TEMPLATE)
    there = facts.files.modules if facts.files else ()
    if not there and facts.shape:
        there = tuple(facts.shape.projections())
    found += target_problems(settings.lora.target_modules, there)
    if facts.files:
        found += file_problems(facts.files, settings)
    longest = facts.longest
    if longest and facts.source != "folder" and settings.model.max_seq_length > longest:
        found.append(_too_long(settings, longest).problem)
    if facts.gated and not cached(facts.name) and not logged_in():
        found.append(Problem(f"{facts.name} is gated.", "Its owner asks you to accept a licence "
                             "first, and you are not logged in to the Hub.",
                             f"Accept it on {page_of(facts.name)}, then {LOG_IN}.", FIELD,
                             "warning"))
    if facts.shape:
        engine, memory_gb = _where(settings, machine)
        found += memory_problems(facts.shape, settings, engine, memory_gb)
    return found


def file_problems(files: Files, settings: Settings) -> list[Problem]:
    """What the small files of a model say against these settings."""
    found = token_problems(files.tokens) if files.template else []
    template = template_of(files, settings.model.chat_template_kwargs)
    if template is None:
        return found
    if template.hangs:
        return [*found, replace(HANGS, field=ARGUMENTS)]
    if template.wrong:
        return [*found, Problem("The chat template of this model cannot be used.",
                                f"It was asked to write a question: {template.wrong}.",
                                "Get the model's files anew, or choose another model.", FIELD)]
    return [*found, *template_problems(template, settings)]


def template_problems(template: Template, settings: Settings) -> list[Problem]:
    found = []
    if not template.takes_system and settings.data.system_prompt.strip():
        found.append(Problem(
            "This model takes no system turn.", "The system prompt is put before the question "
            "instead, in the turn of the user.", "The Data tab's preview shows it.",
            "data.system_prompt", "warning"))
    given = template_arguments(settings.model.chat_template_kwargs)
    if unknown := [name for name in given if name not in template.names]:
        knows = ", ".join(template.names) or "none"
        found.append(Problem(
            f"This model's chat template does not ask for {', '.join(unknown)}.",
            f"Template arguments that it knows: {knows}.", "Take it out, or see to the spelling.",
            ARGUMENTS, "warning"))
    if template.opens and (unearned := never_earned(settings.rewards.chosen,
                                                    opened(template.prompt))):
        off = (" Or set 'Template arguments' to enable_thinking=false."
               if "enable_thinking" in template.names else "")
        found.append(Problem(
            f"The prompt ends in {template.opens}: each answer begins inside of it.",
            f"{', '.join(unearned)} can never be earned so: an answer would have to begin with "
            "another tag.", "Choose rewards for the tags that this model writes, such as "
            f"`tags` with names=think,answer.{off}", "rewards.chosen", "warning"))
    return found


def never_earned(chosen: Iterable[Chosen], begins: str) -> list[str]:
    """The rewards of shape whose own examples show that they are earned, and never are once each
    answer begins with this text. Only those that the lab ships have examples."""
    found = []
    for one in chosen:
        reward = one.reward
        good = [(text, columns) for text, columns, score in reward.examples if score]
        if one.file or one.takes_as != SHAPE or not good:
            continue
        best = [_score(one, text, columns) for text, columns in good]
        after = [_score(one, begins + text, columns) for text, columns in good]
        after += [_score(one, begins + text.partition(">")[2], columns) for text, columns in good
                  if text.startswith(begins.strip())]
        if max(best, default=0) > 0 and max(after, default=0) <= 0:
            found.append(f"'{reward.label}'")
    return found


def _score(chosen: Chosen, text: str, columns: dict) -> float:
    return score(text, columns, [chosen]).rewards.get(chosen.name) or 0.0


def memory_of(settings: Settings, machine: Machine) -> Estimate | None:
    """The estimated memory of a run here; None where the model's shape is not known."""
    try:
        shape = look_at(settings.model.name).shape
    except LabError:
        return None
    return estimate(shape, settings, *_where(settings, machine)) if shape else None


def decided_for(settings: Settings, machine: Machine, engine: str = "") -> Settings:
    """These settings with what is left to the lab decided for this machine, and for this engine
    where it is not the first that is tried."""
    first, memory_gb = _where(settings, machine)
    try:
        shape = look_at(settings.model.name).shape
    except LabError:
        shape = None
    return decided(shape, settings, engine or first, memory_gb)


def quicker(settings: Settings, machine: Machine) -> Cure | None:
    """A change with which a run on a GPU uses memory that it leaves free, to be quicker."""
    engine, memory_gb = _where(settings, machine)
    try:
        shape = look_at(settings.model.name).shape
    except LabError:
        return None
    if shape is None or engine == CPU or settings.hardware.compile_loss == "on":
        return None
    return roomier(shape, settings, engine, memory_gb)


def _where(settings: Settings, machine: Machine) -> tuple[str, float]:
    """(engine, GB of memory there are for each of its processes)."""
    engine = choose_engines(settings, machine).first.value
    if engine == CPU:
        return engine, machine.memory_gb
    gpus = machine.gpus[:settings.hardware.num_processes]
    return engine, min(gpu.memory_gb for gpu in gpus)


def _too_long(settings: Settings, longest: int) -> BadSettings:
    return BadSettings(
        f"'Longest sequence' is more than the model allows: {settings.model.max_seq_length}.",
        f"{settings.model.name} was made for {longest} tokens.", f"Set it to {longest} or less.",
        "model.max_seq_length")
