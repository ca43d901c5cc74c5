"""The oldest Kubernetes that is supported, the one of the tests, and the newest that builds: `make api-servers`."""
