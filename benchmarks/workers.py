"""Episodes a second with one worker, with several, and with Ray's, in one run.

`python benchmarks/workers.py --workers 2` plays the same episodes of the scripted expert (physics
alone, no images) three times: in this process, by local processes, and by a local Ray if it is
installed. It compares the results, and prints seconds, start of the workers left out (each has
played a batch before), beside the processor time of all processes. The ratio of the seconds means
something on idle cores only; the processor time shows what the spreading costs on busy ones, too.

`--kill 20 --episodes 400` kills one of the workers every 20 seconds, in turn. `--least 1.7` ends
with exit code 1 unless the local processes were so many times as fast as one, all kinds gave the
same results, and, with `--kill`, a worker was killed.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from safedojo_ros.evaluation.protocol import TrialResult, batches
from safedojo_ros.evaluation.workers.processes import ProcessCrew
from safedojo_ros.evaluation.workers.ray_actors import RayCrew
from safedojo_ros.evaluation.workers.spread import Crew, Make
from safedojo_ros.pipeline.evaluate import Evaluation, ExpertPlayer
from safedojo_ros.pipeline.players import Players


@dataclass(frozen=True)
class Killed(Players):
    """Players of whom one is killed every so many seconds, in turn."""

    every: float = 20.0
    killed: list[int] = field(default_factory=list)

    def hire(self, make: Make, count: int) -> Crew:
        """The workers; the killing ends with them."""
        crew, over = super().hire(make, count), threading.Event()
        close = crew.close

        def kill() -> None:
            for worker in itertools.cycle(range(count)):
                if over.wait(self.every):
                    return
                with contextlib.suppress(KeyError):  # it has not been started
                    end(crew, worker)
                    self.killed.append(worker)

        def closed() -> None:
            over.set()
            thread.join()
            close()

        thread = threading.Thread(target=kill)
        thread.start()
        crew.close = closed  # type: ignore[method-assign]
        return crew


def end(crew: Any, worker: int) -> None:
    """Kill a worker as the system would."""
    if isinstance(crew, ProcessCrew):
        crew.processes[worker].kill()
    elif isinstance(crew, RayCrew):
        import ray

        ray.kill(crew.actors[worker])


def played(players: Players, episodes: int) -> tuple[list[TrialResult], float, float]:
    """All results, and the seconds and processor seconds from the end of the warm-up on."""
    asked = Evaluation(policy="expert:safe", level=(2,), episodes=episodes)
    count = players.workers or 1
    warm_up = batches(asked.trials()[:1] * count, 1)
    groups = warm_up + batches(asked.trials(), 4)
    results: list[TrialResult] = []
    start, used, seconds, spent = 0.0, 0.0, 0.0, 0.0
    with closing(players.play(partial(ExpertPlayer, asked), groups)) as every:  # type: ignore[type-var]
        for number, (judged, _) in enumerate(every):
            if number + 1 == len(warm_up):
                start, used = time.perf_counter(), processor_seconds()
            elif number >= len(warm_up):
                results += judged
            if number + 1 == len(groups):  # while the workers still live
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
    parser.add_argument("--kill", type=float, metavar="SECONDS")
    parser.add_argument("--least", type=float, metavar="TIMES")
    args = parser.parse_args()
    ways = {"this process": Players(1), "processes": Players(args.workers)}
    if importlib.util.find_spec("ray"):
        ways["Ray"] = Players(args.workers, "local")
    if args.kill:
        for name in list(ways)[1:]:
            ways[name] = Killed(args.workers, ways[name].ray, args.kill)
    first: tuple[list[TrialResult], float, float] | None = None
    print(f"{args.episodes} episodes of expert:safe at Level II; {args.workers} workers")
    print("way            seconds  faster  processor s  same results")
    failed = False
    for name, players in ways.items():
        results, seconds, spent = played(players, args.episodes)
        first = first or (results, seconds, spent)
        print(
            f"{name:<13} {seconds:>8.1f} {first[1] / seconds:>7.2f} {spent:>12.1f}  "
            f"{'yes' if results == first[0] else 'NO'}"
            + (f", {len(players.killed)} killed" if isinstance(players, Killed) else "")
        )
        failed |= results != first[0]
        failed |= isinstance(players, Killed) and not players.killed
        if args.least and name == "processes" and first[1] / seconds < args.least:
            failed = True
    if args.least and failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
