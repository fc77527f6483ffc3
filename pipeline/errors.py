"""The one kind of error that a user sees as a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: where, what was found, what was expected, and the way out, in one sentence.

    Of several faults of one input each is a sentence, in `args`. cli.py prints them and exits with
    `code`; anything else that escapes is our own defect.
    """

    code = 1

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class UsageError(UserError):
    """The command line itself is off: a bad combination of options, an unknown setting."""

    code = 2


def few(names: Iterable[object], most: int = 8) -> str:
    """A list for a sentence: the first names, and how many there are of many."""
    told = [str(name) for name in names]
    return ", ".join(told[:most]) + (f" ... ({len(told)} in all)" if len(told) > most else "")
