"""Other people's code, called by ours."""

from collections.abc import Callable
from typing import TypeVar

from notbugs.runtime.devices import is_out_of_memory
from notbugs.runtime.errors import UserError, raised

Found = TypeVar("Found")


def tried(work: Callable[[], Found], failed: Callable[[str], UserError], *, in_parts: bool = False) -> Found:
    """What a work gives.

    Args:
        failed: the error to raise, of "raises KeyError: 'x' (/home/me/own.py, line 3)".
        in_parts: the caller answers the exhaustion of the device's memory with smaller parts, so that is let through.
    Raises: what `failed` gives, where the work raises anything but an error of ours or an interruption. `sys.exit` is
        no way out: a stage that has written nothing would have ended well.
    """
    try:
        return work()
    except (UserError, InterruptedError):
        raise
    except (Exception, SystemExit) as error:  # other people's code may raise anything
        if in_parts and isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise failed(raised(error)) from error
