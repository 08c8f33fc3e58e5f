"""Between a policy's chunk and the arm: limits, gate, playback, target, arm states. numpy only."""
