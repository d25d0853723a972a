"""K-quants: super-blocks of 256 weights whose sub-blocks have integer scales of their own."""
