"""Training: experiments and presets, batches, the loop, its log and its state."""
