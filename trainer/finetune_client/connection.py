"""The way to a cluster: a kubeconfig's context, or the service account of the pod that we are in; and what its refusals mean.

Configuration, authentication and transport are the official client's. Its answers are taken as plain JSON.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

from finetune_api.errors import ClusterFailed, InvalidCluster

_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# The API server answers a request or a page of one within this; a log that is followed says something within the other.
ANSWER_SECONDS: Final = 30.0
SILENT_SECONDS: Final = 3600.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An API server, and the namespace that is meant where none is said. `where` names it in messages."""

    api: ApiClient
    namespace: str
    where: str


def connect(*, kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None) -> Connection:
    """Read the configuration; asks the API server for nothing yet. Raises InvalidCluster.

    As kubectl: the file given, else $KUBECONFIG, else ~/.kube/config, else the pod that we are in.
    """
    loaded = Configuration()
    try:
        if kubeconfig is None and context is None and not _has_kubeconfig() and _POD_NAMESPACE.exists():
            load_incluster_config(client_configuration=loaded)
            own, where = _POD_NAMESPACE.read_text(encoding="utf-8").strip(), "this pod's cluster"
        else:
            file = str(kubeconfig) if kubeconfig else None
            load_kube_config(config_file=file, context=context, client_configuration=loaded, persist_config=False)
            own, where = _of_context(file, context)
    except ConfigException as error:
        raise InvalidCluster(_no_configuration(str(error), kubeconfig, context)) from None
    except OSError as error:
        raise InvalidCluster(f"kubeconfig {kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION} can't be read: {error.strerror}") from None
    # A request that failed is told, not repeated behind the user's back for a minute.
    loaded.retries = urllib3.Retry(total=0)
    return Connection(api=ApiClient(loaded), namespace=namespace or own, where=where)


def _has_kubeconfig() -> bool:
    return any(Path(part).expanduser().exists() for part in KUBE_CONFIG_DEFAULT_LOCATION.split(":") if part)


def _of_context(file: str | None, context: str | None) -> tuple[str, str]:
    """The namespace of a context, and its name."""
    known, active = list_kube_config_contexts(file)
    chosen = next((found for found in known if found["name"] == context), active) if context else active
    return chosen["context"].get("namespace") or "default", f"context {chosen['name']}"


def _no_configuration(told: str, kubeconfig: Path | None, context: str | None) -> str:
    if context is not None:
        try:
            known = [found["name"] for found in list_kube_config_contexts(str(kubeconfig) if kubeconfig else None)[0]]
        except (ConfigException, OSError):
            known = []
        if known and context not in known:
            return f"--context {context}: there is no such context in the kubeconfig; use one of {', '.join(sorted(known))}"
    return f"no cluster is configured: {told}; set KUBECONFIG, or write ~/.kube/config as your cluster's provider says"


@contextmanager
def told_plainly(connection: Connection, what: str, *, missing: str = "") -> Iterator[None]:
    """Turns the client's exceptions into errors for a user. `what` was tried, `missing` is the message where there is no such object.

    Raises InvalidCluster where asking again won't help, else ClusterFailed.
    """
    try:
        yield
    except ApiException as error:
        if error.status:
            raise _refusal(error, connection, what, missing) from None
        raise ClusterFailed(_unreachable(connection, what, error.reason)) from None  # TLS that failed
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ClusterFailed(_unreachable(connection, what, getattr(error, "reason", None) or error)) from None


def _unreachable(connection: Connection, what: str, cause: object) -> str:
    server = connection.api.configuration.host
    return f"{what}: the API server of {connection.where} ({server}) can't be reached: {' '.join(str(cause).split())}"


def _refusal(error: ApiException, connection: Connection, what: str, missing: str) -> InvalidCluster | ClusterFailed:
    told = message_of(error)
    match error.status:
        case 404 if missing and _names_object(error):
            return InvalidCluster(missing)
        case 404:
            return InvalidCluster(f"{what}: {connection.where} knows no FineTuneJob; install the operator there first (docs/cluster.md)")
        case 401:
            return InvalidCluster(f"{what}: {connection.where} doesn't accept your credentials; log in again, or choose another --context")
        case 403:
            return InvalidCluster(f"{what}: {told}; ask for that right: the chart adds FineTuneJobs to the roles view, edit and admin")
        case status if status is not None and 400 <= status < 500 and status not in (408, 429):
            return InvalidCluster(f"{what}: {told}")
    return ClusterFailed(f"{what}: {connection.where} answered {error.status} {told}; try again")


def _names_object(error: ApiException) -> bool:
    """Whether the API server knows the kind, and has no object of that name: then its answer names it."""
    return bool(status_of(error).get("details", {}).get("name"))


def message_of(error: ApiException) -> str:
    """The API server's own words."""
    return str(status_of(error).get("message") or error.reason or "no reason given")


def status_of(error: ApiException) -> Json:
    """The API server's Status object; empty where it gave none."""
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
