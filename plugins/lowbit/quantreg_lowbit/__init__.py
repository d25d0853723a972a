"""One and two bits a weight: signs, ternary weights, and blocks of a single scale."""
