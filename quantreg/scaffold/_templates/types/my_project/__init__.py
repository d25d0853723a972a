"""Quant formats for quantreg: MY_Q3."""
