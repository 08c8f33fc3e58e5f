"""Methods beside each other: statistics, page and plots."""
