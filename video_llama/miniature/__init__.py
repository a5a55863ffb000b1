"""A complete small Video-LLaMA, made from nothing: its world, its language, its training and its weights."""
