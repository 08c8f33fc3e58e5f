"""The Franka Control Interface: client, and an emulated robot that speaks it."""
