"""A model behind an OpenAI-compatible server that others wrote: what it is given, and when it is ready."""
