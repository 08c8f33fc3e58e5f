"""A policy that LeRobot saved, behind openpi's protocol: `./dojo lerobot serve DIR`.

Runs in an environment of LeRobot's own, whose versions exclude this package's. Of this package it
imports the protocol alone. LeRobot reads the checkpoint's JSON and safetensors, no pickle.
LeRobot's own processors normalise and tokenise.
"""

import argparse
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.core.errors import PolicyUnavailable
from safedojo_ros.models.served.server import policy_server

STATE, IMAGES, TASK = "observation.state", "observation.images.", "task"
DEVICE_STEP = "device_processor"
MAX_STEPS = 64
"""Longest chunk that the gate takes."""


class LeRobotPolicy:
    """cameras: the checkpoint's columns of images, in its order; state_size, action_size: numbers.

    Raises `PolicyUnavailable` where the checkpoint cannot answer a question by itself.
    """

    def __init__(self, directory: str, device: str) -> None:
        """directory: what `save_pretrained` left, or a name on the hub; device: as torch's."""
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        config = PreTrainedConfig.from_pretrained(directory)
        config.device = device
        self.cameras = tuple(config.image_features)
        self._shapes = [tuple(feature.shape) for feature in config.image_features.values()]
        state = config.robot_state_feature
        self.state_size = 0 if state is None else int(state.shape[0])
        self.action_size = int(config.action_feature.shape[0])
        self.kind = config.type
        if config.n_obs_steps != 1:
            raise PolicyUnavailable(
                f"{directory}: a {self.kind} of {config.n_obs_steps} observations a decision; a "
                "question brings one"
            )
        placed = {DEVICE_STEP: {"device": device}}
        self._policy = get_policy_class(self.kind).from_pretrained(directory, config=config)
        self._policy.to(device).eval()
        self._before, self._after = make_pre_post_processors(
            config,
            pretrained_path=directory,
            preprocessor_overrides=placed,
            postprocessor_overrides={DEVICE_STEP: {"device": "cpu"}},
        )
        self._turn = threading.Lock()

    def metadata(self) -> dict[str, Any]:
        """What every client is told."""
        return {
            "policy": self.kind,
            "cameras": list(self.cameras),
            "state_size": self.state_size,
            "action_size": self.action_size,
        }

    def infer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The chunk for openpi's question: images (S, S, 3) in the order of the checkpoint's
        cameras, state, prompt. Raises `PolicyUnavailable` for another count of either."""
        import torch

        arrays = [value for value in question.values() if isinstance(value, np.ndarray)]
        images = [array for array in arrays if array.ndim == 3]
        numbers = [array.astype(np.float32) for array in arrays if array.ndim == 1]
        state = np.concatenate([np.zeros(0, np.float32), *numbers])
        if len(images) != len(self.cameras) or len(state) != self.state_size:
            raise PolicyUnavailable(
                f"{len(images)} images and a state of {len(state)} came, the checkpoint has "
                f"{len(self.cameras)} ({', '.join(self.cameras)}) and {self.state_size}"
            )
        seen: dict[str, Any] = {
            key: torch.from_numpy(fitted(image, *shape[1:])).permute(2, 0, 1)[None].float() / 255
            for key, image, shape in zip(self.cameras, images, self._shapes, strict=True)
        }
        seen |= {STATE: torch.from_numpy(state)[None], TASK: question.get("prompt", "")}
        with self._turn, torch.inference_mode():
            chunk = self._policy.predict_action_chunk(self._before(seen))
            actions = self._after(chunk[0])
        return {"actions": actions.float().numpy()[:MAX_STEPS]}


def fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 of a square image (S, S, 3): what is not a bar of it, resized."""
    import cv2

    side = len(image)
    scale = side / max(height, width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (side - tall) // 2, (side - wide) // 2
    part = np.ascontiguousarray(image[top : top + tall, left : left + wide])
    if (tall, wide) == (height, width):
        return part
    method = cv2.INTER_AREA if tall > height else cv2.INTER_LINEAR
    return cv2.resize(part, (width, height), interpolation=method)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT; prints the name under which the gate asks it."""
    parser = argparse.ArgumentParser(prog="dojo lerobot serve", description=__doc__)
    parser.add_argument("checkpoint", help="directory that LeRobot saved, or a name on the hub")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines may ask, too")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(arguments)
    try:
        if "/" not in args.checkpoint and not Path(args.checkpoint).is_dir():
            raise PolicyUnavailable(f"there is no directory '{args.checkpoint}'")
        import torch

        device = args.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with redirect_stdout(sys.stderr):  # the first line is the name, whatever LeRobot prints
            policy = LeRobotPolicy(args.checkpoint, device)
    except (PolicyUnavailable, ImportError, OSError, ValueError, RuntimeError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        sys.stderr.write(f"dojo lerobot: {words[0]}\n")
        return 2
    server = policy_server(policy.infer, args.host, args.port, policy.metadata())
    port, sides = server.socket.getsockname()[1], [max(shape[1:]) for shape in policy._shapes]
    side = f"?image_size={max(sides)}&resize=letterbox" if sides else ""  # `fitted` undoes it
    print(f"openpi:ws://{args.host}:{port}{side}", flush=True)  # noqa: T201
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
