"""What the documentation says is what the repository does."""

from fault_table import DOCUMENT, with_table


def test_the_fault_table_is_made_from_the_tests() -> None:
    text = DOCUMENT.read_text()
    assert with_table(text) == text, "run: python test/fault_table.py"
