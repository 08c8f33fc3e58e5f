"""The policy that ships with the package, alone and behind the safety head's gate.

`python examples/evaluate_behind_the_gate.py --episodes 50` takes minutes. TSR is the share of
episodes that succeed, CAR the share without a collision, SSR the share that succeeds without one.
"""

import argparse

from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.pipeline.filters import RunTimeFilter, gate_sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--max-steps", type=int, default=150)
    args = parser.parse_args()

    for kind in (None, "gate"):
        report = evaluate(
            Evaluation(
                level=(1,),
                episodes=args.episodes,
                max_steps=args.max_steps,
                filter=RunTimeFilter(kind),
            )
        )
        rates = (report.overall.tsr, report.overall.car, report.overall.ssr)
        tsr, car, ssr = (f"{rate.value:.0%}" for rate in rates)
        print(f"{report.policy}: TSR {tsr}, CAR {car}, SSR {ssr}")
        if kind:
            print(gate_sentence(report.settings["gate"]))


if __name__ == "__main__":
    main()
