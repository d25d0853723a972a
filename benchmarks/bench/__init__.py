"""What the benchmark commands are made of. Uses quantreg as any caller does, and the oracles that are there."""
