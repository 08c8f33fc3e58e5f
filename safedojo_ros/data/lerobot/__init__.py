"""Episodes on disk in the LeRobot v3 layout: read, write, video."""
