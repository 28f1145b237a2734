"""The two kinds of error: a mistake of the user's, told in one line with what to do, and a bug, told by a traceback."""


class UserError(ValueError):
    """What is wrong and what to do, in one line; a program ends with it and exit status 2.

    Everything else that is raised is a failure of the machine or a bug of the package: exit status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
