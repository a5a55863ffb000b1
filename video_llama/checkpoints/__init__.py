"""Weights on disk: the reference's files and ours, and how they become each other."""

from video_llama.checkpoints.loading import load, load_yaml_model

__all__ = ["load", "load_yaml_model"]
