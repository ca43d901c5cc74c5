"""The stages of a run on one machine, as `pipeline.py` and the pods of a job call them: each takes a LocalRun."""
