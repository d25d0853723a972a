"""A quantreg plugin: the type MY_Q3."""
