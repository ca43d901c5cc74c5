"""Commands that look at jobs on a cluster and change them."""
