"""Models that run: token ids in, logits out, with weights of any registered type."""
