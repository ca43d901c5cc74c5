"""Talking to a model: prompting and chat."""
