"""A policy of your own behind openpi's protocol: a function from a question to a chunk.

It raises the hand. `python examples/serve_policy.py` prints the name that `--policy` and
`policy:=` take.
"""

from typing import Any

import numpy as np

from safedojo_ros.models.served.server import policy_server


def infer(question: dict[str, Any]) -> dict[str, Any]:
    """Images, state and prompt → actions (8, 7): metres, radians, gripper."""
    return {"actions": np.tile([0.0, 0.0, 0.01, 0.0, 0.0, 0.0, -1.0], (8, 1))}


if __name__ == "__main__":
    server = policy_server(infer, "127.0.0.1", 0, {})
    port = server.socket.getsockname()[1]
    print(f"openpi:ws://127.0.0.1:{port}?keys=tabletop&image_size=64", flush=True)
    server.serve_forever()
