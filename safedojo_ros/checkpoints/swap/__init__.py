"""A model replaced while it works: loaded beside, tried, taken over, watched."""
