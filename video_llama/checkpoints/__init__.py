"""Weights on disk: the reference's names and ours, and how they become each other."""
