"""A cluster that is there already, such as kind's: environment variables say where and what it has. CONTRIBUTING.md shows how to use one.

S3 and the Hub run on this machine, on free ports of an address that the cluster's pods reach.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.demo.s3_server import s3_server
from tests.testcluster.any_cluster import AnyCluster
from tests.testcluster.operator_image import image_name
from tests.testcluster.processes import free_ports
from tests.testcluster.s3 import S3

KUBECONFIG = "FINETUNE_TEST_KUBECONFIG"
ADDRESS = "FINETUNE_TEST_ADDRESS"
OPERATOR_IMAGE = "FINETUNE_TEST_OPERATOR_IMAGE"
TRAINER_IMAGE = "FINETUNE_TEST_TRAINER_IMAGE"
RUNTIME_CLASS = "FINETUNE_TEST_RUNTIME_CLASS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the environment says of the cluster. `address` is this machine's, as pods see it."""

    kubeconfig: Path
    address: str
    operator_image: str
    trainer_image: str
    runtime_class: str | None


def named(environment: Mapping[str, str]) -> Named | None:
    """The cluster that the environment names, if it does. Raises ValueError when it doesn't say where this machine is for pods.

    The images are those that `make images` builds from the working tree, unless others are named.
    """
    if not environment.get(KUBECONFIG):
        return None
    if not environment.get(ADDRESS):
        raise ValueError(f"{KUBECONFIG}={environment[KUBECONFIG]} without {ADDRESS}; set it to an address of this machine that pods reach")
    return Named(
        kubeconfig=Path(environment[KUBECONFIG]).expanduser(),
        address=environment[ADDRESS],
        operator_image=environment.get(OPERATOR_IMAGE) or image_name("operator"),
        trainer_image=environment.get(TRAINER_IMAGE) or image_name("trainer"),
        runtime_class=environment.get(RUNTIME_CLASS) or None,
    )


@contextlib.contextmanager
def existing_cluster(its: Named, folder: Path) -> Iterator[AnyCluster]:
    """The cluster, with an S3 server for it, whose objects are in `folder`, while the block runs."""
    with s3_server(folder, host=its.address) as server:
        yield AnyCluster(
            kubeconfig=its.kubeconfig,
            s3=S3(endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key),
            hub_url=f"http://{its.address}:{free_ports(1, its.address)[0]}",
            trainer_image=its.trainer_image,
            runtime_class=its.runtime_class,
        )
