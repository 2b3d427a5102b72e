"""From challenger to champion: compare, decide, move the alias, tell."""
