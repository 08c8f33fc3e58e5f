"""Neural networks: policy, frame autoencoder, safety head. torch, no worlds, no ROS."""
