"""Text in CSV files that people open in a spreadsheet."""

# What spreadsheets take for the start of a formula (OWASP, "CSV Injection"), also in its full-width forms.
FORMULA_START = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def spreadsheet_safe(text: str) -> str:
    """A cell that a spreadsheet shows and does not run: one that looks like a formula gets a leading apostrophe."""
    return f"'{text}" if text.startswith(FORMULA_START) else text
