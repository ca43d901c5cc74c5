"""Rows of training data are looked at, chosen and written; `pipeline` is the story."""
