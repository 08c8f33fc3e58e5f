"""An obstacle of your own in the embedded world: one body of MJCF, one registration."""

from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.worlds.tabletop.scene import Thing, add_thing

BODY = '<geom type="cylinder" size="0.02 0.08" pos="0 0 0.08" class="thing" mass="0.2"/>'

if __name__ == "__main__":
    add_thing(Thing("candle", radius=0.02, height=0.16, body=BODY), obstacle=True)
    rates = evaluate(Evaluation(policy="expert:safe", level=(1,), episodes=4)).overall
    print(f"with candles among the obstacles: TSR {rates.tsr.value:.0%}, CAR {rates.car.value:.0%}")
