"""The oldest formats: blocks of 32 weights with a float16 scale and, in some, a min."""
