"""Speaks the pipeline's protocol for tests: progress, result, exit codes, resuming, SIGTERM.

FAKE_WAIT_AT: step at which it waits for the file `go` beside its folder; FAKE_CODE, FAKE_PUBLISHED,
FAKE_REASON: how it ends; FAKE_DEAF: it ignores SIGTERM.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 6


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", nargs="*")
    parser.add_argument("--base")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "arguments.json").write_text(json.dumps(sys.argv[1:]))
    stopped = []
    deaf = "FAKE_DEAF" in os.environ
    signal.signal(signal.SIGTERM, lambda *_: None if deaf else stopped.append(1))
    saved = args.out / "saved"
    first = int(saved.read_text()) if saved.exists() else 0
    for step in range(first, STEPS):
        while str(step) == os.environ.get("FAKE_WAIT_AT") and not (args.out.parent / "go").exists():
            time.sleep(0.01)
            if stopped:
                break
        if stopped:
            return 130
        with (args.out / "progress.jsonl").open("a") as file:
            line = {"time": step, "stage": "practice", "step": step + 1, "total": STEPS}
            file.write(json.dumps(line | {"metrics": {"loss": 1.0 / (step + 1)}}) + "\n")
        saved.write_text(str(step + 1))
    code = int(os.environ.get("FAKE_CODE", "0"))
    if code == 2:
        sys.stderr.write("safedojo pipeline: the data set is empty\n")
        return 2
    published = os.environ.get("FAKE_PUBLISHED") or None
    reason = os.environ.get("FAKE_REASON", "all gates passed")
    result = {"published": published, "reason": reason}
    (args.out / "result.json").write_text(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
