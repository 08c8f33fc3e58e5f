"""Rosbag2 bags: recorded, read and turned into episodes. No ROS needed."""
