"""A line's golden set: images with known verdicts, on which a model must prove itself."""
