"""Checkpoints on disk: manifest, store, hot swap. No ROS, and no torch."""
