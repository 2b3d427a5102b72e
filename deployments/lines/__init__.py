"""One TOML file for each production line."""
