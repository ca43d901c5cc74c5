"""Faults at random moments of a run, each with what became of it: the rows of docs/reliability.md."""
