"""Errors that a user can mend: one line naming the key or file, what it is, and what is allowed.

Other modules derive their own from `UserError`, beside what raises them.
"""

import difflib
import traceback
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user can mend: the command line shows its message as one line, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        """The message; what would steer a terminal, in a name from somebody else's file, is written out."""
        return printable(super().__str__())


class ConfigError(UserError):
    """A setting is missing, misspelt, of the wrong type or out of range. Its message is one line."""

    exit_code = 2

    def __str__(self) -> str:
        """The message; a line break in a value is written out."""
        return super().__str__().replace("\n", "\\n")


def meant(name: str, there: Iterable[str]) -> str:
    """What may have been meant by a name that is not there, for the end of an error; empty if nothing is near."""
    close = difflib.get_close_matches(name, list(there), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def printable(text: str) -> str:
    """A text with what would steer a terminal, or cannot be written, spelt out."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def raised(error: BaseException) -> str:
    """What other people's code raised, and where, in one line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"raises {type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"raises {type(error).__name__}: {one_line(error)}{place}"


def one_line(error: BaseException) -> str:
    """The gist of an error message, however long it is."""
    try:
        text = str(getattr(error, "message", None) or error) or type(error).__name__
    except Exception:  # of somebody's own kind, whose words fail, too
        text = type(error).__name__
    for mark in ("[SQL:", "Traceback", "(Background on this error"):
        text = text.split(mark)[0]
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."
