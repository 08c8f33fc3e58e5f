"""As a new user: from `git clone` to the first motion, and the tutorial; minutes and megabytes.

`python benchmarks/first_minutes.py` clones this repository into a fresh folder, with an empty cache
of pip, and runs `./dojo demo --headless --episodes 1` there: the set-up, and the demonstration
until the arm moves. `--tutorial` goes on with every command of docs/tutorial.md as it stands.
Packages of the system that `./dojo` would install with apt-get have to be there already, unless it
runs as root.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```bash\n(.*?)```", re.S)
MOVES = "the arm moves"
MISSES_BARS = 3
"""Exit code of a command whose bars do not hold, as at the preset `smoke`."""


def megabytes(folder: Path) -> float:
    """What lies below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e6


def fresh_environment(folder: Path) -> dict[str, str]:
    """Without what this run has set for Python, and with a cache of its own."""
    left = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return left | {"PIP_CACHE_DIR": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}


def first_motion(folder: Path, clone: Path) -> dict[str, float]:
    """Clone, set up, and run the demonstration's first episode."""
    began = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    cloned = time.monotonic()
    demo = subprocess.Popen(
        ["./dojo", "demo", "--headless", "--no-compare", "--episodes", "1"],
        cwd=clone,
        env=fresh_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout is not None
    found: dict[str, float] = {}
    for line in demo.stdout:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {line}")
        if "set-up done" in line:
            found["set-up, minutes"] = (time.monotonic() - cloned) / 60
        if MOVES in line:
            found["from git clone to the first motion, minutes"] = (time.monotonic() - began) / 60
    if demo.wait() or len(found) < 2:
        raise SystemExit(f"the demonstration ended with exit code {demo.returncode}")
    found["clone, MB"] = megabytes(clone / ".git")
    if fetched := megabytes(folder / "cache"):  # nothing where a mirror on this machine is used
        found["packages as they were fetched, MB"] = fetched
    found["packages as installed, MB"] = megabytes(clone / ".venv")
    return found


def tutorial(folder: Path, clone: Path) -> float:
    """Minutes of all its commands, one after the other."""
    began, page = time.monotonic(), (clone / "docs/tutorial.md").read_text()
    blocks = [block.replace("\\\n", " ").splitlines() for block in BLOCK.findall(page)]
    for line in (line for block in blocks for line in block):
        if "policies/N" in line:  # the number of the best policy
            best = json.loads((clone / "runs/practice/practice.json").read_text())["policy"]
            line = line.replace("policies/N", best)
        at = time.monotonic()
        code = subprocess.run(
            line, shell=True, cwd=clone, env=fresh_environment(folder), stdout=subprocess.DEVNULL
        ).returncode
        sys.stderr.write(f"{time.monotonic() - at:7.1f} s  {line}\n")
        if code not in (0, MISSES_BARS):
            raise SystemExit(f"exit code {code}: {line}")
    return (time.monotonic() - began) / 60


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tutorial", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="first_minutes_"))
    try:
        clone = folder / "safedojo_ros"
        found = first_motion(folder, clone)
        if options.tutorial:
            found["tutorial at the preset smoke, minutes"] = tutorial(folder, clone)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"load of the last 15 minutes at the end: {os.getloadavg()[2]:.1f}")
    for name, figure in found.items():
        print(f"{name}: {figure:.1f}")


if __name__ == "__main__":
    main()
