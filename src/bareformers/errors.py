"""What a user can get wrong, said in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """The user asked for something that cannot be carried out.

    The message is one sentence that says what was wrong, where, and what to write instead.
    The command line prints it without a traceback and exits with 2.
    """


class Interrupted(Exception):
    """Training was stopped by a signal after its checkpoint was written; the message says how to resume."""


class Diverged(Exception):
    """Loss or gradient of a run are no numbers any more; the message names run, part of the model and step."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    matches = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that nothing is registered under, with the nearest name and all of them."""
    known = sorted(known)
    return InputError(f"unknown {kind} {name!r}{nearest(name, known) or ':'} known are {', '.join(known)}")
