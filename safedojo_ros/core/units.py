"""Units: everything is in metres, radians and seconds, but time stamps are in nanoseconds."""

SECOND = 1_000_000_000
"""Nanoseconds."""
