"""From a camera's file to the input of a network: decoding, quality gate, recipe."""
