"""A real Kubernetes for tests: programs built from pinned sources, their processes, certificates and configuration.

`binaries` gives programs, `processes` runs them, `certificates` lets them trust each other, `control_plane` puts these together.
"""
