"""The one error type that reaches a user."""


class CodesignError(Exception):
    """Something the user can mend: its text is one line that names the cause and the cure.

    The command line prints it as `codesign: <text>` and exits 1; nothing else is printed.
    """
