"""FineTuneJobs on a cluster, from any Python: `FineTuneClient`. Needs the extra `cluster`; knows neither operator nor trainer."""

from finetune_client.client import FineTuneClient
from finetune_client.jobs import Job, JobEvent

__all__ = ["FineTuneClient", "Job", "JobEvent"]
