"""The contract: FineTuneJob, TrainingRun, the plan and the CRD. Pure values over pydantic; no I/O beyond reading a job file."""
