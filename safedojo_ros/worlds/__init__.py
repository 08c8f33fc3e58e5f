"""Gymnasium environments: the embedded tabletop world, its experts, and their vector form."""
