"""What flows between the rooms: observations, action chunks, cost estimates, episodes, errors."""
