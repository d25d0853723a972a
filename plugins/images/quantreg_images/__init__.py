"""Image and video models: how each architecture is recognised, and which of its layers stay at high precision."""
