"""Training: the four stages of the reference, LoRA, validation, checkpoints, and merging into a model folder."""
