"""Running a model's Python: in a process without network, secrets or a way out, or not at all."""
