"""How far an imagined world can be trusted: errors by horizon, heads, rates, bars, a report."""
