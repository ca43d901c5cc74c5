"""The operator: watches FineTuneJobs and makes the cluster run them."""
