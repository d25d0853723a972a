"""One and two bits per weight: signs, ternary weights, and blocks of a single scale."""
