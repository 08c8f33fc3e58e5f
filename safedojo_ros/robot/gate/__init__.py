"""Which action chunks may reach the arm: freshness, cost, detours, forbidden zones."""
