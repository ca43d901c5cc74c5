"""The Kubernetes API as this runtime speaks it: dictionaries in, dictionaries out.

No typed models, no retries, no client-side rate limit (the API server's own fairness and 429 do that). Errors are in errors.py and
importable from here.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

from finetune_operator.runtime.clock import Clock, SystemClock
from finetune_operator.runtime.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    NotPermitted,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    Unreadable,
    api_error,
)
from finetune_operator.runtime.transport import BROKEN, CONNECT_SECONDS, Transport, configuration
from finetune_operator.runtime.watch import Watch, WatchEvent

__all__ = [
    "AlreadyExists",
    "Api",
    "ApiError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "Json",
    "NotFound",
    "NotPermitted",
    "Resource",
    "ServerError",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
    "Unreadable",
    "Watch",
    "WatchEvent",
]

Json = dict[str, Any]

# client-go's is 500. Decoded, so many RayJobs take 70 MB for a moment, and Python gives little of that back.
PAGE: Final = 100
MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as in `Resource("batch", "v1", "jobs", "Job")`; the core group is "".

    >>> Resource("", "v1", "configmaps", "ConfigMap").path("default", "run")
    '/api/v1/namespaces/default/configmaps/run'
    """

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """`batch/v1`, and `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of the collection (no name) or of one object. An empty name is refused: its DELETE would be the collection's."""
        for segment in (namespace, name, subresource):
            if segment in ("", ".", ".."):
                raise ValueError(f"{self.kind} {namespace}/{name}: {segment!r} can't be part of a path")
        parts = ["/apis" if self.group else "/api", self.api_version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


class Api:
    """Calls to one API server; thread-safe. Everything that answers with an object answers with the server's dictionary."""

    def __init__(self, transport: Transport, *, timeout_seconds: float = 30) -> None:
        self._transport = transport
        self._timeout_seconds = timeout_seconds
        self._permit: Callable[[], float] | None = None

    @classmethod
    def connect(
        cls,
        kubeconfig: Path | None,
        *,
        pool_size: int = 16,
        timeout_seconds: float = 30,
        user_agent: str,
        observe: Callable[[str, str, str], None] | None = None,
        clock: Clock | None = None,
    ) -> "Api":
        """By a kubeconfig, or as the pod's service account when there is none. `observe(method, code, host)` is told of each exchange.

        Nothing is sent yet. Raises kubernetes.config.ConfigException when the configuration can't be read.
        """
        transport = Transport(
            lambda: configuration(kubeconfig), clock=clock or SystemClock(), user_agent=user_agent, pool_size=pool_size, observe=observe
        )
        return cls(transport, timeout_seconds=timeout_seconds)

    def with_timeout(self, seconds: float) -> "Api":
        """The same connections with another time limit per call."""
        other = copy.copy(self)
        other._timeout_seconds = seconds
        return other

    def fenced(self, permit: Callable[[], float]) -> "Api":
        """The same connections, for writes only as long as `permit()` seconds are left (`LeaderElector.seconds_to_write`).

        It is asked straight before each write is sent. With none left the write raises NotPermitted; otherwise the write's time
        limit is what is left, so that none is under way when another process may take over.
        """
        other = copy.copy(self)
        other._permit = permit
        return other

    def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        """One object, read from etcd (not from a cache of the API server)."""
        return self._call("GET", resource.path(namespace, name))

    def pages(
        self, resource: Resource, namespace: str | None, *, label_selector: str = "", limit: int = PAGE
    ) -> Iterator[tuple[list[Json], str]]:
        """Page after page of all objects, each with the resourceVersion of the whole list; limit 0 is one page.

        Raises Gone when the list took so long that its version was compacted: list again, with limit 0.
        """
        path = resource.path(namespace)
        query = {"limit": str(limit or ""), "labelSelector": label_selector}
        while True:
            page = self._call("GET", _with_query(path, query))
            metadata = page.get("metadata") or {}
            items = page.get("items") or []
            for item in items:  # items of built-in kinds come without both, unlike a watch's objects
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield items, metadata.get("resourceVersion", "")
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    def list_pages(
        self, resource: Resource, namespace: str | None, *, label_selector: str = "", limit: int = PAGE
    ) -> tuple[list[Json], str]:
        """All objects (of the cluster, when there is no namespace) and the version to watch from."""
        try:
            pages = list(self.pages(resource, namespace, label_selector=label_selector, limit=limit))
        except Gone:
            if not limit:
                raise
            pages = list(self.pages(resource, namespace, label_selector=label_selector, limit=0))
        return [item for items, _ in pages for item in items], pages[-1][1]

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        resource_version: str,
        *,
        label_selector: str = "",
        timeout_seconds: float = 240,
        read_timeout_seconds: float = 90,
        from_the_beginning: bool = False,
    ) -> Watch:
        """What changes after `resource_version`, bookmarks too.

        `from_the_beginning`: first all objects that there are, as ADDED, up to a bookmark that says so (WatchEvent.is_all). The API server
        answers from its cache, where it may read a list from etcd. Without its feature gate WatchList it raises Invalid.

        The server ends it after `timeout_seconds`. It also ends after `read_timeout_seconds` of silence: the server sends a bookmark
        about every minute, so a longer silence is a connection whose other end is gone.
        """
        stream = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"} if from_the_beginning else {}
        query = {
            **stream,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(int(timeout_seconds), 1)),
            "labelSelector": label_selector,
        }
        path = _with_query(resource.path(namespace), query)
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read_timeout_seconds)
        response = self._transport.send("GET", path, timeout=timeout, stream=True)
        request = f"WATCH {resource.path(namespace)}"
        if response.status == 200:
            return Watch(response, request)
        try:
            body = response.read(4096)
        except BROKEN:
            body = b""
        response.close()
        raise api_error(response.status, body, response.headers, request)

    def create(self, resource: Resource, namespace: str | None, manifest: Json, *, strict: bool = True, dry_run: bool = False) -> Json:
        """Create; `strict` refuses fields that the server doesn't know, which it would drop in silence.

        `dry_run`: everything but the storing: schema, rights, quotas and admission answer as they would.
        """
        query = {"fieldValidation": "Strict" if strict else "", "dryRun": "All" if dry_run else ""}
        return self._call("POST", _with_query(resource.path(namespace), query), manifest)

    def replace(self, resource: Resource, namespace: str | None, name: str, manifest: Json, *, subresource: str | None = None) -> Json:
        """Put the whole object; with metadata.resourceVersion in it, only if nobody has changed it since (else Conflict)."""
        return self._call("PUT", resource.path(namespace, name, subresource), manifest)

    def merge_patch(self, resource: Resource, namespace: str | None, name: str, patch: Json, *, subresource: str | None = None) -> Json:
        """Merge `patch` in (null removes, lists are replaced); metadata.resourceVersion in it is a precondition (else Conflict)."""
        return self._call("PATCH", resource.path(namespace, name, subresource), patch, MERGE_PATCH)

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
    ) -> None:
        """Delete, and only the object with `uid` and as of `resource_version` where given (else Conflict); NotFound when there is none."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if given := {name: value for name, value in preconditions.items() if value is not None}:
            options["preconditions"] = given
        self._call("DELETE", resource.path(namespace, name), options)

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def _call(self, method: str, path: str, body: Json | None = None, content_type: str = "application/json") -> Json:
        seconds = self._timeout_seconds
        if self._permit is not None and method != "GET":
            left = self._permit()
            if left <= 0:
                raise NotPermitted(f"this process doesn't hold the lease ({method} {path})", reason="NotPermitted")
            seconds = min(seconds, left)
        answer = self._transport.send(
            method,
            path,
            body=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
            content_type="" if body is None else content_type,
            timeout=urllib3.Timeout(total=seconds, connect=min(CONNECT_SECONDS, seconds)),
        )
        if answer.status >= 300:
            raise api_error(answer.status, answer.data, answer.headers, f"{method} {path}")
        try:
            read = json.loads(answer.data)
        except ValueError:
            read = None
        if not isinstance(read, dict):
            raise Unreadable(f"not an object: {answer.data[:80]!r} ({method} {path})", status=answer.status, reason="Unreadable")
        return read


def _with_query(path: str, query: dict[str, str]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path
