"""Which seeds may be used for what; the ranges never overlap, so evaluation is held out."""

from safedojo_ros.core.errors import ConfigError

TRAINING = range(0, 900_000)
VALIDATION = range(900_000, 1_000_000)
EVALUATION = range(1_000_000, 2_000_000)

SPLITS = {"training": TRAINING, "validation": VALIDATION, "evaluation": EVALUATION}


def split_seeds(split: str, offset: int, count: int) -> list[int]:
    """`count` consecutive seeds of a split from its `offset`-th on; raises `ConfigError`."""
    if split not in SPLITS:
        raise ConfigError(f"unknown split '{split}'; choose one of {', '.join(SPLITS)}")
    seeds = SPLITS[split]
    if offset < 0 or count < 0 or offset + count > len(seeds):
        raise ConfigError(
            f"seeds {offset}..{offset + count} leave the {split} split of {len(seeds)} seeds"
        )
    return list(seeds[offset : offset + count])
