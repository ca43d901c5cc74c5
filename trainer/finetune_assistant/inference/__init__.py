"""Asking one model: a name becomes a model, messages become ids, and ids become text, turn by turn or in batches."""
