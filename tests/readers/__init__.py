"""Programs that load what we export: the models they are tried on, environments of their own, and what each reads."""
