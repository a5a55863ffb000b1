"""Weights on disk: the reference's files and ours, and how they become each other."""
