"""From annotation files to batches: formats -> Sample -> row of ids -> Batch."""
