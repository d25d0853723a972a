"""Plain numbers: one weight per block, little-endian, at any alignment."""
