"""Plain numbers: one weight a block, little-endian, at any alignment."""
