"""The pod that hands our entrypoint to Ray's job server on the head, and waits until it ends.

KubeRay (1.6 and 1.7) offers to do this in a container beside the head (SidecarMode), but gives that container no security context and
lets nobody else give it one, so that a namespace with the `restricted` Pod Security Standard refuses the head. In K8sJobMode the
pod is ours to describe; KubeRay makes its command, which names nothing but the head's Service, KubeRay's id and our entrypoint.
"""

from typing import Final

from finetune_api.finetunejob import FineTuneJob
from finetune_operator import keys
from finetune_operator.resources import pods, volumes
from finetune_operator.resources.owner import Manifest, Owner
from finetune_operator.settings import Settings

SUBMISSION_MODE: Final = "K8sJobMode"
# Each time the connection to the head breaks, a new pod goes on waiting for the same submission. When the head is gone for good,
# KubeRay calls the RayJob failed after these tries, about 3 minutes.
RETRIES: Final = 4
# `ray job submit` imports a part of Ray; KubeRay gives its own submitter about as much.
_MEMORY: Final = "1Gi"


def submitter_pod(job: FineTuneJob, owner: Owner, settings: Settings) -> Manifest:
    """The pod's template: no Secret, no token, no file of the job. It runs where CPU pods may run."""
    places = (volumes.temporary(),)
    environment = {"HOME": keys.TEMPORARY_FOLDER, **pods.USER_NAME, "RAY_USAGE_STATS_ENABLED": "0"}
    container = {
        "name": keys.SUBMITTER_CONTAINER,
        "image": pods.cpu_pod_image(job, settings),
        **pods.pull_policy(settings),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": _MEMORY}},
        "securityContext": pods.container_security(),
        "volumeMounts": [place.mount() for place in places],
    }
    cpu_pods = pods.beside_workers(job)
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pods.pod_security(settings),
        "containers": [container],
        "volumes": [place.volume() for place in places],
        **pods.scheduling(cpu_pods, pods.affinity(cpu_pods)),
        **pods.pull_secrets(settings, *pods.cpu_pods_pull(job)),
    }
    return {"metadata": pods.metadata(cpu_pods, owner.labels(keys.TRAINING), {}), "spec": spec}
