"""Frozen networks that were trained on photographs: which, whose weights, and the engine that runs them."""
