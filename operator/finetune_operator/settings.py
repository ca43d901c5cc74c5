"""What the operator is told when it starts: flags, each with an environment variable behind it.

In: arguments and environment. Out: one frozen value, or an exit with code 2 and a message that names the flag, its value and
the remedy. A flag wins over its variable. Nothing here is about a job; jobs say their part in the FineTuneJob.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from finetune_api.errors import InvalidSpec
from finetune_api.job_defaults import NO_DEFAULTS, JobDefaults, parse_defaults
from finetune_api.price import NO_PRICES, Prices, parse_prices
from finetune_api.training_run import CONTRACT_VERSION
from finetune_operator import keys
from finetune_operator.resources.images import by_digest

PullPolicy = Literal["Always", "IfNotPresent", "Never"]

ENVIRONMENT_PREFIX: Final = "FINETUNE_OPERATOR_"
SERVICE_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# The Lease's namespace when the operator runs outside of a pod and isn't told.
OUTSIDE_NAMESPACE: Final = "finetune-system"
# The Ray of our trainer image. KubeRay wants to know it: token authentication begins with 2.52, HTTP probes with 2.53.
RAY_VERSION: Final = "2.60.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """What else than its own pods may reach a job's pods, and be reached by them: rules of a NetworkPolicy (networking.k8s.io/v1)."""

    ingress: tuple[dict[str, Any], ...]
    egress: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's settings."""

    # Image of pods whose job names none: the trainer of the operator's own version.
    trainer_image: str
    # Where the operator itself runs: its Lease is here.
    operator_namespace: str = OUTSIDE_NAMESPACE
    # Namespaces whose jobs are served; None is all of them, and needs cluster-wide rights.
    namespaces: tuple[str, ...] | None = None
    image_pull_policy: PullPolicy | None = None
    image_pull_secrets: tuple[str, ...] = ()
    # What jobs get where they say nothing.
    job_defaults: JobDefaults = NO_DEFAULTS
    # What plans cost, in their status.
    prices: Prices = field(default_factory=lambda: NO_PRICES)
    # Whether the platform gives pods user and group, as OpenShift does from a namespace's range; else ours have fixed ones.
    assigned_ids: bool = False
    ray_version: str = RAY_VERSION
    # How long a pod that has to go may take for a last checkpoint.
    stop_seconds: int = 240
    # File below the kubelets' `seccomp` folder, with which pods that evaluate, or look at an evaluation, can make a sandbox; None: the
    # runtime's profile.
    sandbox_profile: str | None = None
    # None: jobs get no NetworkPolicy.
    job_network_policy: NetworkRules | None = None
    leader_election: bool = True
    lease_name: str = keys.MANAGED_BY
    # Health, readiness and metrics.
    http_host: str = ""
    http_port: int = 8080
    concurrent_reconciles: int = 4
    # None: the pod's own service account.
    kubeconfig: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"

    @property
    def contract(self) -> int:
        """Version of the run that the pods execute."""
        return CONTRACT_VERSION

    def image(self, name: str) -> str:
        """What a pod runs that is to run the image of that name."""
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings(Settings):
    """The settings for pods of a frozen run. `image_that_ran`: whole name and digest of what its preparation ran, where that is known."""

    image_that_ran: str | None
    run_contract: int

    @property
    def contract(self) -> int:
        """The frozen run's own."""
        return self.run_contract

    def image(self, name: str) -> str:
        """The image of that name; the very one that ran, if it is that."""
        return by_digest(name, self.image_that_ran)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flag:
    """One row: a field of Settings and how its text is read."""

    field: str
    help: str
    read: Callable[[str], Any] = str
    metavar: str = "TEXT"

    @property
    def option(self) -> str:
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.field.upper()


def settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings. Exits with code 2 when a value is wrong or the trainer's image is missing."""
    parser = _parser()
    told = vars(parser.parse_args(arguments))
    values: dict[str, Any] = {}
    for flag in _FLAGS:
        text, name = (told[flag.field], flag.option) if told[flag.field] is not None else (environment.get(flag.variable), flag.variable)
        if text:
            try:
                values[flag.field] = flag.read(text)
            except ValueError as error:
                parser.error(f"{name}={text}: {error}")
    if "trainer_image" not in values:
        parser.error("--trainer-image is missing; name the image that training pods run, or set FINETUNE_OPERATOR_TRAINER_IMAGE")
    values.setdefault("operator_namespace", _own_namespace())
    return Settings(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune-operator",
        description="Makes the cluster run FineTuneJobs. Every flag may also be given as a variable, --lease-name as "
        f"{ENVIRONMENT_PREFIX}LEASE_NAME.",
        allow_abbrev=False,
    )
    for flag in _FLAGS:
        parser.add_argument(flag.option, dest=flag.field, metavar=flag.metavar, help=flag.help)
    return parser


def _own_namespace() -> str:
    """The namespace of the pod that this process runs in; outside of one, the default's."""
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return OUTSIDE_NAMESPACE


# ---- how texts are read; a ValueError says what would be right


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"use one of {', '.join(words)}")
        return text

    return read


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"use a whole number from {least} to {most}")
        return int(text)

    return read


def _boolean(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise ValueError("use at most 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit")
    return text


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them, sorted, each once."""
    return tuple(sorted({_name(part.strip()) for part in text.split(",") if part.strip()}))


def _namespaces(text: str) -> tuple[str, ...] | None:
    return None if text == "*" else _names(text)


def _defaults(text: str) -> JobDefaults:
    """The defaults in a file."""
    try:
        return parse_defaults(Path(text).read_text(encoding="utf-8"), text)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
    except InvalidSpec as error:
        raise ValueError(str(error)) from None


def _prices(text: str) -> Prices:
    """The table in a text, JSON or YAML."""
    try:
        return parse_prices(text, "prices")
    except InvalidSpec as error:
        raise ValueError(str(error)) from None


def _version(text: str) -> str:
    found = re.fullmatch(r"(\d+)\.(\d+)\.\d+", text)
    if not found or (int(found[1]), int(found[2])) < (2, 53):
        raise ValueError("use the version of the image's Ray, at least 2.53.0")
    return text


def _profile(text: str) -> str:
    if not re.fullmatch(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", text, re.ASCII):
        raise ValueError("use a file's path below the kubelet's seccomp folder, such as sandbox.json")
    return text


def _network_rules(text: str) -> NetworkRules:
    try:
        told = json.loads(text)
        ingress, egress = told.pop("ingress"), told.pop("egress")
        if told or not all(isinstance(rule, dict) for rule in [*ingress, *egress]):
            raise ValueError
    except (ValueError, LookupError, AttributeError, TypeError):
        raise ValueError('use {"ingress": [...], "egress": [...]}, lists of rules of a NetworkPolicy, as JSON') from None
    return NetworkRules(ingress=tuple(ingress), egress=tuple(egress))


_FLAGS: Final = (
    _Flag(field="trainer_image", metavar="IMAGE", help="image of training pods whose job names none (required)"),
    _Flag(field="operator_namespace", metavar="NAME", read=_name, help="namespace of the Lease; absent is the operator's own"),
    _Flag(field="namespaces", metavar="A,B", read=_namespaces, help="namespaces to serve; absent or `*` is all of them"),
    _Flag(field="image_pull_policy", metavar="POLICY", read=_one_of("Always", "IfNotPresent", "Never"), help="of every pod"),
    _Flag(field="image_pull_secrets", metavar="A,B", read=_names, help="names of image pull Secrets in the jobs' namespaces"),
    _Flag(field="job_defaults", metavar="FILE", read=_defaults, help="what jobs get where they say nothing, as YAML; docs/cluster.md"),
    _Flag(field="prices", metavar="JSON", read=_prices, help='dollars for an hour of a GPU, {"nvidia-a100-80gb": 2.21}; absent: no cost'),
    _Flag(field="assigned_ids", metavar="BOOL", read=_boolean, help="true: the platform chooses users and groups of pods; false"),
    _Flag(field="ray_version", metavar="VERSION", read=_version, help=f"Ray in the trainer's image; absent is {RAY_VERSION}"),
    _Flag(field="stop_seconds", metavar="N", read=_whole(1, 3600), help="time that a stopped pod has for a checkpoint; 240"),
    _Flag(field="sandbox_profile", metavar="FILE", read=_profile, help="seccomp profile of pods that evaluate; docs/sandbox.md"),
    _Flag(field="job_network_policy", metavar="JSON", read=_network_rules, help="rules of each job's NetworkPolicy; absent makes none"),
    _Flag(field="leader_election", metavar="BOOL", read=_boolean, help="true or false; true"),
    _Flag(field="lease_name", metavar="NAME", read=_name, help=f"name of the Lease; {keys.MANAGED_BY}"),
    _Flag(field="http_host", metavar="ADDRESS", help="address of health, readiness and metrics; absent is all, of IPv6 too"),
    _Flag(field="http_port", metavar="PORT", read=_whole(0, 65535), help="port of the same; 8080"),
    _Flag(field="concurrent_reconciles", metavar="N", read=_whole(1, 64), help="jobs looked at at once; 4"),
    _Flag(field="kubeconfig", metavar="FILE", read=Path, help="absent is the pod's own service account"),
    _Flag(field="log_level", metavar="LEVEL", read=_one_of("debug", "info", "warning", "error"), help="info"),
    _Flag(field="log_format", metavar="FORMAT", read=_one_of("json", "text"), help="json or text; json"),
)
