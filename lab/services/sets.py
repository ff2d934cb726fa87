"""Reward sets of one's own: kept in a JSON file beside the runs, saved, deleted, taken in."""

import threading
from collections.abc import Sequence

from lab.core.files import write_whole
from lab.core.problems import BadSettings, RunError
from lab.core.rewards import sets
from lab.core.rewards.chosen import Chosen
from lab.core.rewards.sets import RewardSet
from lab.services.workspace import Workspace


class Sets:
    """The named sets of one workspace, those of the lab first.

    The file is read anew each time: another process may have written it. All methods raise
    LabError with what to do.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.path = workspace.root / "reward-sets.json"
        self._lock = threading.Lock()

    def all(self) -> list[RewardSet]:
        return [*sets.built_in(), *self.own()]

    def own(self) -> list[RewardSet]:
        """Raises RunError for a file that cannot be read; it is never written over."""
        try:
            return list(sets.from_json(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            why = str(error)
        except BadSettings as error:
            why = error.problem.why
        raise RunError("The reward sets of your own cannot be read.", f"{self.path.name}: {why}",
                       "Mend the file, or move it away to begin anew.")

    def named(self, name: str) -> RewardSet:
        found = next((one for one in self.all() if one.name == name), None)
        if found is None:
            there = ", ".join(one.name for one in self.all())
            raise RunError(f"There is no reward set {name!r}.", f"There are {there}.")
        return found

    def save(self, name: str, sentence: str, chosen: Sequence[Chosen]) -> RewardSet:
        """Keep these rewards under a name; an own set of that name is replaced."""
        made = sets.checked(name, sentence, chosen)
        self._put([made])
        return made

    def take_in(self, text: str) -> tuple[list[str], list[str]]:
        """Sets from an exported file: (names that are new, names that were replaced). All of them
        are kept or, where one cannot be, none."""
        found = sets.from_json(text)
        return self._put(found)

    def delete(self, name: str) -> None:
        with self._lock:
            own = self.own()
            left = [one for one in own if one.name != name]
            if len(left) == len(own):
                raise RunError(f"There is no reward set {name!r} of your own.",
                               "Those of the lab stay.")
            self._write(left)

    def _put(self, made: Sequence[RewardSet]) -> tuple[list[str], list[str]]:
        of_the_lab = {one.name.casefold() for one in sets.built_in()}
        if taken := next((one.name for one in made if one.name.casefold() in of_the_lab), None):
            raise BadSettings(f"{taken!r} is the name of one of the lab's own sets.",
                              next="Take another name.")
        with self._lock:
            kept = {one.name.casefold(): one for one in self.own()}
            known = [one.name for one in made if one.name.casefold() in kept]
            kept |= {one.name.casefold(): one for one in made}
            if len(kept) > sets.MOST_SETS:
                raise BadSettings("There are too many reward sets.",
                                  f"{len(kept)}, and at most {sets.MOST_SETS} are kept.",
                                  "Delete some first.")
            self._write(list(kept.values()))
        return [one.name for one in made if one.name not in known], known

    def _write(self, own: Sequence[RewardSet]) -> None:
        self.workspace.make()
        try:
            if own:
                write_whole(self.path, sets.to_json(own))
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError("The reward sets cannot be written.", f"{error.strerror or error}.",
                           "Free some space, or give another root with --root.") from error

