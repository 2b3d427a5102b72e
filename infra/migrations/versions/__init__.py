"""One file for each change of the report store's tables."""
