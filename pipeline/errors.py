"""The one kind of error that a user sees as a sentence instead of a traceback."""

from __future__ import annotations


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
