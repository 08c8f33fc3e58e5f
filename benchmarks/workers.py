"""Episodes a second with one worker, with several, and with Ray's, in one run.

`python benchmarks/workers.py --workers 2` plays the same episodes of the scripted expert (physics
alone, no images) three times: in this process, by local processes, and by a local Ray if it is
installed. It compares the results, and prints seconds, start of the workers left out (each has
played a batch before), beside the processor time of all processes. The ratio of the seconds means
something on idle cores only; the processor time shows what the spreading costs on busy ones, too.
"""

import argparse
import importlib.util
import os
import time
from contextlib import closing
from functools import partial

from safedojo_ros.evaluation.protocol import TrialResult, batches
from safedojo_ros.pipeline.evaluate import Evaluation, ExpertPlayer
from safedojo_ros.pipeline.players import Players


def played(players: Players, episodes: int) -> tuple[list[TrialResult], float, float]:
    """All results, and the seconds and processor seconds from the end of the warm-up on."""
    asked = Evaluation(policy="expert:safe", level=(2,), episodes=episodes)
    count = players.workers or 1
    warm_up = batches(asked.trials()[:1] * count, 1)
    groups = warm_up + batches(asked.trials(), 4)
    results: list[TrialResult] = []
    start, used = 0.0, 0.0
    with closing(players.play(partial(ExpertPlayer, asked), groups)) as every:  # type: ignore[type-var]
        for number, (judged, _) in enumerate(every):
            if number + 1 == len(warm_up):
                start, used = time.perf_counter(), processor_seconds()
            elif number >= len(warm_up):
                results += judged
        seconds, spent = time.perf_counter() - start, processor_seconds() - used
    return results, seconds, spent


def processor_seconds() -> float:
    """Of this process and those that descend from it, Ray's among them."""
    parents, spent = {}, {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(name)] = int(fields[1])
        spent[int(name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(spent[pid] for pid in family)


def main() -> None:
    """Measure and print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100)
    args = parser.parse_args()
    ways = {"this process": Players(1), "processes": Players(args.workers)}
    if importlib.util.find_spec("ray"):
        ways["Ray"] = Players(args.workers, "local")
    first: tuple[list[TrialResult], float, float] | None = None
    print(f"{args.episodes} episodes of expert:safe at Level II; {args.workers} workers")
    print("way            seconds  faster  processor s  same results")
    for name, players in ways.items():
        results, seconds, spent = played(players, args.episodes)
        first = first or (results, seconds, spent)
        print(
            f"{name:<13} {seconds:>8.1f} {first[1] / seconds:>7.2f} {spent:>12.1f}  "
            f"{'yes' if results == first[0] else 'NO'}"
        )


if __name__ == "__main__":
    main()
