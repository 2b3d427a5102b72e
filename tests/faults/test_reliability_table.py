"""docs/reliability.md says what the tests show."""

from pathlib import Path


def test_the_table_is_what_the_tests_say(reliability_page: str) -> None:
    """Broken if a fault was added, changed or dropped without `make reliability`."""
    committed = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
    assert committed.read_text(encoding="utf-8") == reliability_page, "run `make reliability`"
