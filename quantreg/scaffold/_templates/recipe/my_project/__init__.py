"""A file type for quantreg: MY_PROJECT."""
