"""What a run says on standard error, for tests that kill runs."""

SUSPICION = ("the last run died while it served", "suspect mode:", "the records under suspicion")


def but_suspicion(err):
    """All but what it says of a run that was killed before it."""
    return "".join(line for line in err.splitlines(True) if not line.startswith(SUSPICION))
