"""What happens in a run, for people and for machines: events, metrics, the report."""
