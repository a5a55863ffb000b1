"""Training data: annotation files are read into Samples, converted to rows of token ids, and collated into batches."""
