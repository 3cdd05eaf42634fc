"""The one exception a user is meant to read, and two ways to it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class RefsegError(Exception):
    """Bad input from outside: the message says in one sentence what is wrong, where, and how to fix it.

    The command line prints it without a traceback; anything else that is raised is a bug of ours.

    >>> import refseg
    >>> try:
    ...     refseg.load("no_such_network")
    ... except refseg.RefsegError as error:
    ...     print(error)
    There is no checkpoint in no_such_network: name a folder with ...
    """


def require(module: str, what: str) -> Any:
    """A module of a package that is not always installed.

    Args:
        module: e.g. "scipy.io".
        what: the message: what needs which package, and how to install it.

    Raises:
        RefsegError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise RefsegError(what) from error


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line; its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
