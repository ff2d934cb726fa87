"""Settings from the command line: a recipe, then a file, then --set; the later wins."""

import argparse
import json
from pathlib import Path

from lab.core.catalog import DEFAULT_RECIPE, RECIPES
from lab.core.problems import BadSettings
from lab.core.rewards import own, permission
from lab.core.rewards.chosen import Chosen, check_chosen, parse_chosen
from lab.core.settings import Settings, read_assignment
from lab.services.own_rewards import refuse_code, refuse_mistakes


def add_settings(sub: argparse.ArgumentParser) -> None:
    """The options that `chosen_settings` reads."""
    sub.add_argument("--recipe", choices=RECIPES, default=None,
                     help=f"where the settings start from (default: {DEFAULT_RECIPE})")
    sub.add_argument("--settings", type=Path, metavar="FILE.json",
                     help="settings of a run, or some of them, as JSON")
    sub.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE",
                     help="change one setting; may be given often")


def add_rewards_file(sub: argparse.ArgumentParser) -> None:
    """The options that `rewards_file` reads: for every command that scores answers."""
    sub.add_argument("--rewards-file", type=Path, metavar="FILE.py",
                     help="rewards of your own, to be chosen by their names")
    add_allow_code(sub)


def add_allow_code(sub: argparse.ArgumentParser) -> None:
    """For a command that scores the answers of a run, which has its rewards in its folder."""
    sub.add_argument("--allow-code", action="store_true", help="let reward code run, in a limited "
                     "child: this limits accidents and is no sandbox")


def rewards_file(options: argparse.Namespace) -> str:
    """The file of own rewards, read and found sound; empty where none is given. Takes note of
    --allow-code. Raises BadSettings or BadData."""
    if options.allow_code:
        permission.allow_code()
    if options.rewards_file is None:
        return ""
    path = options.rewards_file.expanduser().resolve()
    refuse_mistakes(own.read(path))
    return str(path)


def chosen_rewards(text: str | None, file: str) -> tuple[Chosen, ...]:
    """What --rewards chooses; without it those of the file, or else all five. Raises BadSettings,
    also where they run code and may not."""
    try:
        if text:
            chosen = parse_chosen(text, file)
        elif file:
            chosen = tuple(Chosen(name, file=file) for name in own.known(file)[0])
        else:
            chosen = Settings().rewards.chosen
    except ValueError as error:
        raise BadSettings(str(error)) from error
    if wrong := check_chosen(chosen):
        raise BadSettings(" ".join(wrong))
    refuse_code(chosen)
    return chosen


def chosen_settings(options: argparse.Namespace) -> Settings:
    """Recipe, then file, then --set and --steps: the later wins."""
    settings = RECIPES[options.recipe or DEFAULT_RECIPE].settings()
    if options.settings:
        try:
            tree = json.loads(options.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadSettings(f"{options.settings} cannot be read.", str(error),
                              "Give a JSON file such as a run's settings.json.") from error
        tree = tree.get("settings", tree) if isinstance(tree, dict) else tree
        whole = Settings.from_dict(tree)  # complains about what is unknown
        given = {f"{group}.{name}" for group, members in tree.items() for name in members}
        settings = settings.with_values({key: whole.get(key) for key in given})
    file = rewards_file(options) if hasattr(options, "rewards_file") else ""
    if file:
        settings = settings.with_values({"rewards.file": file})
    # The file first: only with it are its rewards known by their names.
    for text in sorted(options.set, key=lambda text: not text.strip().startswith("rewards.file")):
        settings = settings.with_values(dict([read_assignment(text, settings.rewards.file)]))
    if file and not settings.rewards.own:
        raise BadSettings("None of the rewards of your file is chosen.", f"{Path(file).name} has "
                          f"{', '.join(own.known(file)[0])}.",
                          "Name those that count: --set rewards.chosen=NAME[:weight=W],...")
    return settings
