"""Checkpoints in storage: what is in one, who may write it, where a job keeps them."""
