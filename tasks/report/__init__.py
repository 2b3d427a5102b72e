"""The report of a night: tables, pictures, page."""
