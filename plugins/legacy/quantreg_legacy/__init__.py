"""The first formats: blocks of 32 weights, each with a float16 scale and, in some, a minimum."""
