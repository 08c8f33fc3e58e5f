"""Constrained GRPO and its baselines, in imagination or in the simulator."""
