"""A checkpoint becomes a published model."""
