"""The architecture of Video-LLaMA (arXiv 2306.02858). The modules take tensors and ids, not media files or text."""
