"""Better bytes at the same size: what calibration text says about a model, and error feedback behind every type."""
