"""docs/troubleshooting.md has every reason that the gate and the arm can give, and no other."""

import re
from pathlib import Path

from reasons import HOLE, SOURCES, reasons

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"

PARTS_OF_OTHERS = {
    *("the arm", "the target", "the point cloud", "the arm's state", "measured state"),
    *("safety state", "loaded at start", "mode is …", "none: any image is judged", "no names"),
    *("SeenImages | None", "rgb8; jpeg compressed bgr8"),
}
"""Words that stand inside other reasons, or that are said elsewhere."""


def listed() -> list[str]:
    """The reasons of the page: the code in the first cell of a row that begins with code."""
    cells = re.findall(r"^\| (`[^|]+) \|", PAGE.read_text(), re.M)
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


def fixed(text: str) -> list[str]:
    """What of a reason never changes, longest first: phrases of two words at least."""
    parts = [part.strip(" ;:,.()'") for part in text.split(HOLE)]
    return sorted((p for p in parts if len(p.split()) > 1), key=len, reverse=True)


def test_every_reason_of_the_code_is_explained() -> None:
    page = "\n".join(listed())
    missing = [
        text
        for topic in SOURCES
        for text in sorted(reasons(topic) - PARTS_OF_OTHERS)
        if not all(part in page for part in fixed(text))
    ]
    assert not missing, "explain these in docs/troubleshooting.md"


def left(row: str, said: list[str]) -> list[str]:
    """What of a row none of the texts `said` has, longest first of these: its phrases."""
    for text in said:
        row = row.replace(text, HOLE)
    return [part for part in fixed(row) if re.search(r"\w{3,}", part)]


def test_no_reason_is_explained_that_nothing_gives() -> None:
    texts = {text for topic in SOURCES for text in reasons(topic, phrases=False)}
    pieces = {piece.strip() for text in texts for piece in text.split(HOLE)}
    said = sorted((p for p in pieces if len(p) > 2), key=len, reverse=True)
    gone = {row: rest for row in listed() if (rest := left(row, said))}
    assert not gone, "nothing says these any more"
    assert len(listed()) > 100
