"""Dialogues become packed rows of ids and labels on disk."""
