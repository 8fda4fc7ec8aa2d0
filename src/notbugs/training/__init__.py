"""Training of one model."""
