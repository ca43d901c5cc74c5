"""Dialogues become text with frames around each message."""
