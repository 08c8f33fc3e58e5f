"""What the documentation says is what the repository does."""

import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fault_table import DOCUMENT, with_table
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
EXTERNAL = r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?(/[^\s<>\"{}|\\^`]*)?|mailto:[^@\s]+@[^@\s]+"
"""What a link to elsewhere looks like; nothing is fetched."""
SPELLED = ("*.md", "docs", "safedojo_ros", "config", "launch", "msg", "srv", "action", "examples",
           "benchmarks", "dojo", "setup.py")  # fmt: skip
"""What codespell reads."""


def test_the_fault_table_is_made_from_the_tests() -> None:
    text = DOCUMENT.read_text()
    assert with_table(text) == text, "run: python test/fault_table.py"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "site/quickstart/index.html").is_file()


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_pages_with_results_have_the_table_that_the_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks/results.py"))
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    report = {"levels": dict.fromkeys(script["LEVELS"], dict.fromkeys(("tsr", "car", "ssr"), rate))}
    head, rule, row = script["table"]([("safe", "detour", report)]).splitlines()
    assert row.count("50 % (40–60)") == 3
    for page in (ROOT / "README.md", DOCS / "results.md"):
        _, _, rest = page.read_text().partition(script["BEGIN"] + "\n")
        inside, found, _ = rest.partition(script["END"])
        assert found, page
        assert inside.splitlines()[:2] == [head, rule]
        assert {line.count("|") for line in inside.splitlines()} == {row.count("|")}


def test_the_readme_s_plot_is_drawn_from_its_table() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks/results.py"))
    _, _, rest = (ROOT / "README.md").read_text().partition(script["BEGIN"] + "\n")
    made, kept = script["plot"](rest.partition(script["END"])[0]), DOCS / "results.png"
    assert len(made) < 100_000
    now, shown = (np.asarray(Image.open(io.BytesIO(c))) for c in (made, kept.read_bytes()))
    assert np.array_equal(now, shown), "run: python benchmarks/results.py --plot"


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[ ]+", "-", re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip())


def prose(text: str) -> str:
    """`text` without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            if not re.fullmatch(EXTERNAL, target):
                dead.append(target)
            continue
        name, _, part = target.partition("#")
        file = page.parent / name if name else page
        headings = (
            re.findall(r"^#+ (.*)", file.read_text(), re.M) if part and file.is_file() else []
        )
        if not file.exists() or (part and part not in map(anchor, headings)):
            dead.append(target)
    assert not dead


def test_every_image_has_a_description() -> None:
    bare = [str(p) for p in PAGES if re.search(r"!\[\s*\]\(", p.read_text())]
    assert not bare


def test_every_file_that_the_documentation_names_exists() -> None:
    named = (
        r"`((?:safedojo_ros|config|launch|benchmarks|examples|test|docs|requirements)/[\w/.-]+)`"
    )
    missing = {
        (page.name, path)
        for page in PAGES
        for path in re.findall(named, page.read_text())
        if not (ROOT / path).exists() and not (ROOT / "safedojo_ros" / path).exists()
    }
    assert missing <= {("results.md", "docs/results.json")}, "or is written by a command"


def test_nothing_is_misspelled() -> None:
    files = [str(p) for pattern in SPELLED for p in ROOT.glob(pattern)]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.stdout
