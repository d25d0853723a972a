"""4-bit floats (e2m1) under 8-bit scales: the OCP microscaling format and NVIDIA's."""
