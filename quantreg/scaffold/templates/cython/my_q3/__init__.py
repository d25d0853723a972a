"""A plugin of quantreg: MY_Q3."""
