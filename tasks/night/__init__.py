"""One night: list, fetch and prepare, score, commit."""
