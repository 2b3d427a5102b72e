"""Text in CSV files that people open in a spreadsheet."""

import re

# What spreadsheets take for the start of a formula (OWASP, "CSV Injection"), also in its full-width forms: at the start
# of a cell, and behind what the spreadsheets of half of Europe take for the end of one, whatever the file says.
_FORMULA = re.compile(r"""^(?=[\t\r\n])|(^|[;,|\t\r\n]["']*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])""")


def spreadsheet_safe(text: str) -> str:
    """A cell that a spreadsheet shows and does not run: an apostrophe stands before what looks like a formula."""
    return _FORMULA.sub(lambda match: f"{match[0]}'", text)
