"""The one kind of error that a user sees as a sentence instead of a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: where, what was found, what was expected, and the way out, in one sentence.

    cli.py prints it and exits with `code`; anything else that escapes is our own defect.
    """

    code = 1


class UsageError(UserError):
    """The command line itself is off: a bad combination of options, an unknown setting."""

    code = 2
