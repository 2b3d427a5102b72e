"""Train a line's detector: snapshot, detector, registered version."""
