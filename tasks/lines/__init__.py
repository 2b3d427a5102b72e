"""The production lines and the dates that a run covers."""
