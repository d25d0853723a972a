"""Importance scores for quantreg."""
