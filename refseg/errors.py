"""The one exception a user is meant to read."""


class RefsegError(Exception):
    """Bad input from outside: the message says in one sentence what is wrong, where, and how to mend it.

    The command line prints it without a traceback; everything else that is raised is a bug of ours.
    """
