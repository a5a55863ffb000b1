"""Tensors, ids and weights: the architecture of Video-LLaMA (arXiv 2306.02858), without media paths or prompt text."""
