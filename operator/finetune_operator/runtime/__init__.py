"""A small controller runtime: API access, caches, work queue, lease, workers, probes. It knows no FineTuneJob."""
