"""The frozen run as an immutable ConfigMap: every attempt, also after an upgrade of the operator, mounts exactly it."""

from finetune_api.training_run import digest_of
from finetune_operator import keys
from finetune_operator.resources.owner import Manifest, Owner


def run_config_map(text: str, owner: Owner) -> Manifest:
    """The ConfigMap of a run's JSON; its name carries the digest of that, to the letter: another version would write the run otherwise."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata(keys.run_name(owner.name, digest_of(text))),
        "immutable": True,
        "data": {keys.RUN_FILE: text},
    }
