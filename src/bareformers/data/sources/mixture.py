"""Several tasks at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bareformers import registry
from bareformers.data.corpus import NOUNS, Corpus
from bareformers.errors import InputError
from bareformers.registry import source


@source("mixture")
@dataclass
class Mixture:
    """Labelled or scored texts of several sources, each a task of its own with a name."""

    members: dict[str, Any]  # a name for each, and its source: {sst2: {name: labelled_text, ...}, stsb: {...}}

    def load(self) -> Corpus:
        if len(self.members) < 2:
            raise InputError(
                "mixture: members has the data of two tasks or more, as in members: {sst2: {name: labelled_text, ...}, "
                "trec: {...}}"
            )
        found = {name: self._member(name) for name in self.members}
        tested = [name for name, corpus in found.items() if corpus.test]
        if tested and len(tested) < len(found):
            others = ", ".join(name for name in found if name not in tested)
            raise InputError(
                f"mixture: {', '.join(tested)} have a test side and {others} none; give one to all members, or to none"
            )
        return Corpus.mixed(found)

    def _member(self, name: str) -> Corpus:
        where = f"data.members.{name}"
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise InputError(f"mixture: a member's name has letters, digits, '_' and '-' only, not {name!r}")
        if not self.members[name]:
            raise InputError(f"{where} is missing its source: write one, as in {{name: labelled_text, ...}}")
        _, chosen = registry.sources.parse(self.members[name], where)
        try:
            found: Corpus = chosen.load()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if found.kind not in ("labelled", "scored"):
            raise InputError(f"{where} gives {NOUNS[found.kind]}s, and members are labelled or scored texts")
        return found
