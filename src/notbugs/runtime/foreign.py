"""Other people's code, called by ours."""

from collections.abc import Callable
from typing import TypeVar

from notbugs.runtime.devices import is_out_of_memory
from notbugs.runtime.errors import UserError, raised

Found = TypeVar("Found")


def tried(work: Callable[[], Found], failed: Callable[[str], UserError]) -> Found:
    """What a work gives.

    Args:
        failed: the error to raise, of "raises KeyError: 'x' (/home/me/own.py, line 3)".
    Raises: what `failed` gives, where the work raises anything but an error of ours, an interruption, or the
        exhaustion of the device's memory, which callers answer with smaller parts.
    """
    try:
        return work()
    except (UserError, InterruptedError):
        raise
    except Exception as error:  # other people's code may raise anything
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise failed(raised(error)) from error
