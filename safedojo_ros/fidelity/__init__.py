"""How far an imagined world can be believed: by horizon, its readers, rates; bars and a report."""
