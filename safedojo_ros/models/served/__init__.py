"""Policies of others, computed by a server that speaks openpi's protocol."""
