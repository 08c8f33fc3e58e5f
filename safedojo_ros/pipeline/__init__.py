"""From demonstrations to a published policy: stages, their ledger, runs, processes. No ROS."""
