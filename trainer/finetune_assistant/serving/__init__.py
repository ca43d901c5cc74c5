"""A model behind an OpenAI-compatible server that others wrote: what it is given, where it listens, and when it is ready."""
