"""The parts of the benchmark commands. They use the public quantreg, and the oracles that are installed."""
