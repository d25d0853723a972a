"""I-quants: weights in groups that share a point of a codebook (IQ1 to IQ3), or on an uneven 4-bit scale (IQ4)."""
