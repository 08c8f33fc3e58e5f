"""What the trainings read: latents, replays and imagined states of recorded episodes."""
