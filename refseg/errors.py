"""The one exception a user is meant to read."""


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
