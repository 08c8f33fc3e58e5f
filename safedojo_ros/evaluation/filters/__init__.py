"""What may stand between a policy and the world: the gate, and a CBF filter."""
