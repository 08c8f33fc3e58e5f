"""A small checkpoint, saved by LeRobot itself, and what LeRobot answers to one observation.

Run by LeRobot's own Python: `python lerobot_checkpoint.py FOLDER`. FOLDER then has
`pretrained_model`, `seen.npz` (images front and wrist, 48x64, and state) and `expected.npy`, the
chunk.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors

CAMERAS = ("observation.images.front", "observation.images.wrist")
SIDES, STATE, ACTION, LENGTH = (48, 64), 8, 7, 10


def main() -> None:
    """Make, save, ask."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = {key: PolicyFeature(FeatureType.VISUAL, (3, *SIDES)) for key in CAMERAS}
    config = ACTConfig(
        input_features=images | {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        chunk_size=LENGTH,
        n_action_steps=LENGTH,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_decoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=4,
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
    )
    scale = {"action": (ACTION, 0.01), "observation.state": (STATE, 0.3)}
    stats = {
        key: {"mean": torch.full((size,), std / 2), "std": torch.full((size,), std)}
        for key, (size, std) in scale.items()
    }
    one = torch.ones(3, 1, 1)
    stats |= {key: {"mean": 0.5 * one, "std": 0.25 * one} for key in CAMERAS}
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    policy = ACTPolicy(config).eval()
    for part in (policy, before, after):
        part.save_pretrained(folder / "pretrained_model")
    seen = {key: random.integers(0, 256, (*SIDES, 3), np.uint8) for key in CAMERAS}
    state = np.array([0.1, -0.05, 0.2, 3.1, 0.0, 0.1, 0.04, 0.04], np.float32)
    batch: dict[str, Any] = {
        key: torch.from_numpy(i).permute(2, 0, 1)[None] / 255 for key, i in seen.items()
    }
    batch |= {"observation.state": torch.from_numpy(state)[None], "task": "go"}
    with torch.inference_mode():
        chunk = after(policy.predict_action_chunk(before(batch)))
    np.save(folder / "expected.npy", chunk[0].numpy())
    front, wrist = seen.values()
    np.savez(folder / "seen.npz", front=front, wrist=wrist, state=state)


if __name__ == "__main__":
    main()
