"""What can go wrong in operation and is the operator's to mend: commands print it in one line, without a traceback."""


class OperatingError(RuntimeError):
    """An outside system is not there, refuses, or does not hold what is asked for."""
