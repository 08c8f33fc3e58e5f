"""What the trainers read: latents, replays and imagined states of recorded episodes."""
