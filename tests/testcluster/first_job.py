"""What docs/try-it.md and docs/platform.md find on the cluster of `make cluster`: images, a tiny base model and data in S3, and
the variables of a shell.

Makes no object in Kubernetes: those are the reader's part.
"""

import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import yaml
from tests.testcluster.any_cluster import kubectl_program
from tests.testcluster.binaries import binaries
from tests.testcluster.cluster import Cluster, Say
from tests.testcluster.host_python import ROOT
from tests.testcluster.hub import WRITE_TOKEN, hub_url
from tests.testcluster.images import TRAINER_IMAGE, tag_image
from tests.testcluster.network import HOST_ADDRESS
from tests.testcluster.operator_image import BUILDERS, operator_image

BUCKET: Final = "finetune"
MODEL: Final = ROOT / "examples/tiny"
DATA: Final = ROOT / "examples/demo/data"
# The operator's image under a second tag, to upgrade to.
NEXT: Final = "next"


def missing_builders() -> list[str]:
    """Programs that the operator's image needs and this machine lacks; each is also the name of its Debian package."""
    return [name for name in BUILDERS if shutil.which(name) is None]


def prepare(cluster: Cluster, say: Say = print) -> None:
    """Give the nodes the images and fill the bucket. Raises RuntimeError when the operator's image can't be built."""
    say("operator's image")
    image = operator_image()
    cluster.import_image(image)
    names = chart_images()
    for node in cluster.nodes:
        for name in (names["operator"], f"{names['operator'].rpartition(':')[0]}:{NEXT}"):
            tag_image(node.containerd, image.name, name)
        tag_image(node.containerd, TRAINER_IMAGE, names["trainer"])
    say(f"s3://{BUCKET}: a tiny model and conversations")
    client = cluster.s3.client()
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    for path, key in (*_below(MODEL, "base/tiny"), *_below(DATA, "data")):
        client.upload_file(str(path), BUCKET, key)


def chart_images() -> dict[str, str]:
    """Names of the images for the chart's release, in a registry that doesn't exist: docs/try-it.md gives them to Helm."""
    chart = ROOT / "charts/finetune-operator"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    version = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    repositories = {"operator": values["image"]["repository"], "trainer": values["trainer"]["image"]["repository"]}
    return {name: f"cluster.test/{repository}:{version}" for name, repository in repositories.items()}


def environment(cluster: Cluster) -> str:
    """Lines for a shell's `eval`: the cluster for kubectl and helm, the Hub and the keys of S3, and no proxy on the way to them."""
    programs = [binaries(("helm",))["helm"].parent, Path(sys.executable).parent, kubectl_program().parent]
    # Each once, in this order.
    path = ":".join(dict.fromkeys(map(str, programs)))
    variables = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "HF_ENDPOINT": hub_url(),
        "HF_TOKEN": WRITE_TOKEN,
        "AWS_ACCESS_KEY_ID": cluster.s3.access_key,
        "AWS_SECRET_ACCESS_KEY": cluster.s3.secret_key,
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    unproxied = [f'export {name}="{HOST_ADDRESS},127.0.0.1,localhost${{{name}:+,${name}}}"' for name in ("NO_PROXY", "no_proxy")]
    return "\n".join([*exports, f'export PATH={shlex.quote(path)}:"$PATH"', *unproxied])


def _below(folder: Path, prefix: str) -> Iterable[tuple[Path, str]]:
    return ((path, f"{prefix}/{path.name}") for path in sorted(folder.iterdir()))
