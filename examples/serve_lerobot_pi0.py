"""A π0 that LeRobot saved, behind openpi's protocol: where the GPU is, for a gate somewhere else.

`python examples/serve_lerobot_pi0.py DIR` prints the name under which the gate asks it. Its images
are the checkpoint's cameras in their order; so are the numbers of the state.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safedojo_ros.models.images import to_unit
from safedojo_ros.models.lerobot_pi0 import LeRobotPI0
from safedojo_ros.models.served.server import policy_server
from safedojo_ros.models.threads import chosen_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines may ask, too")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = chosen_device(args.device)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    policy = LeRobotPI0.load(args.directory, dtype)
    policy.network.to(device)

    def infer(question: dict[str, Any]) -> dict[str, Any]:
        arrays = [value for value in question.values() if isinstance(value, np.ndarray)]
        images = np.stack([array for array in arrays if array.ndim == 3])
        state = np.concatenate([array for array in arrays if array.ndim == 1])
        seen = to_unit(torch.from_numpy(images))[None]
        return {"actions": policy.chunks(seen, state[None], [question["prompt"]])[0]}

    server = policy_server(infer, args.host, args.port, {"cameras": list(policy.cameras)})
    port = server.socket.getsockname()[1]
    how = f"image_size={policy.image_size}&resize=letterbox"  # as LeRobot's own π0 has it
    print(f"openpi:ws://{args.host}:{port}?{how}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
