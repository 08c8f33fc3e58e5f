"""Which nodes make a stack, and how they are started, spun, watched and ended."""
