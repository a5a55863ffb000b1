"""Read, write, convert and inspect weights: the reference's published files and our model folders."""
