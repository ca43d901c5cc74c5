"""Kubernetes manifests as pure functions of values: one file a kind. The same input gives the same bytes."""
