"""ROS 2 lifecycle nodes: thin adapters around the pure rooms, the only place that imports rclpy."""
