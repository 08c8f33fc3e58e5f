"""From gated chunks to targets of the arm, one control step at a time."""
