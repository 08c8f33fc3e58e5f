"""Episodes on disk in the LeRobot v3 layout, how they are recorded, and their statistics."""
