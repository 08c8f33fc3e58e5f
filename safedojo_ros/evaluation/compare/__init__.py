"""Comparison of methods: statistics, page and plots."""
