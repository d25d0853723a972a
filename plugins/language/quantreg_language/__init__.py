"""Language models: how each architecture is computed."""
