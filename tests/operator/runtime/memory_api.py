"""What an API server does with objects, in memory: list by pages, watch, create, replace, patch, delete."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
TICK_SECONDS = 0.01


class Refusal(Exception):
    """An answer that is a Status."""

    def __init__(self, code: int, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.body = json.dumps(
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message or reason}
        ).encode()


class Request:
    """Path and query of a call, taken apart: collection (without the namespace), namespace, name."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        segments = parts.path.strip("/").split("/")
        head = 2 if segments[0] == "api" else 3
        rest = segments[head:]
        self.namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            self.namespace, rest = rest[1], rest[2:]
        self.collection = "/".join([*segments[:head], rest[0]])
        self.name = rest[1] if len(rest) > 1 else ""


class MemoryApi:
    """Objects of every collection; thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._log: list[tuple[int, str, str, Json, Json | None]] = []  # version, collection, type, object, what it was before
        self._version = 100
        self._oldest = 0
        self.absent: set[str] = set()  # collections whose CRD isn't installed
        self.streams = True  # whether a watch may begin with all objects

    def compact(self) -> None:
        """Forget all history: watches from before are too old."""
        with self._changed:
            self._oldest = self._version
            self._log.clear()

    def restore(self) -> None:
        """As from a backup: versions start again at a lower number."""
        with self._changed:
            self._version = 10
            self._oldest = 0
            self._log.clear()
            for item in self._objects.values():
                self._version += 1
                item["metadata"]["resourceVersion"] = str(self._version)

    def call(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of one exchange."""
        request = Request(target)
        with self._changed:
            try:
                if request.collection in self.absent:
                    raise Refusal(404, "NotFound", "the server could not find the requested resource")
                answer = getattr(self, f"_{method.lower()}")(request, json.loads(body or b"null"))
            except Refusal as refusal:
                return refusal.code, refusal.body
            return (201 if method == "POST" else 200), json.dumps(answer).encode()

    def watch(self, target: str, stop: threading.Event) -> Iterator[bytes]:
        """Lines of a watch, b"" now and then; ends after timeoutSeconds, which are counted a thousand times too fast."""
        request = Request(target)
        if request.collection in self.absent:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if "sendInitialEvents" in request.query:
            if not self.streams:
                raise Refusal(422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
            with self._changed:
                seen = self._version
                there = [item for key, item in sorted(self._objects.items()) if key[0] == request.collection and _matches(item, request)]
            yield from (_line("ADDED", item) for item in there)
            annotations = {"k8s.io/initial-events-end": "true"}
            yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(seen), "annotations": annotations}})
        else:
            seen = int(request.query["resourceVersion"])
        if seen > self._version:
            raise Refusal(504, "Timeout", f"Too large resource version: {seen}, current: {self._version}")
        for _ in range(int(request.query["timeoutSeconds"]) * 10):
            if stop.is_set():
                return
            with self._changed:
                if seen < self._oldest:
                    status = json.loads(Refusal(410, "Expired", f"too old resource version: {seen} ({self._oldest})").body)
                    yield _line("ERROR", status)
                    return
                fresh = [entry for entry in self._log if entry[0] > seen]
                if not fresh:
                    self._changed.wait(TICK_SECONDS)
            for version, collection, kind, item, old in fresh:
                seen = version
                if collection == request.collection and _matches(item, request):
                    yield _line(kind, item)
                elif collection == request.collection and old and _matches(old, request):
                    yield _line("DELETED", item)  # it doesn't match any more
            yield b""
            if fresh:
                yield _line("BOOKMARK", {"metadata": {"resourceVersion": str(seen)}})

    def _key(self, request: Request) -> tuple[str, str, str]:
        return request.collection, request.namespace, request.name

    def _found(self, request: Request) -> Json:
        try:
            return self._objects[self._key(request)]
        except KeyError:
            raise Refusal(404, "NotFound", f'{request.collection} "{request.name}" not found') from None

    def _stamp(self, request: Request, kind: str, item: Json) -> Json:
        old = self._objects.get(self._key(request))
        self._version += 1
        item = json.loads(json.dumps(item))
        item["metadata"]["resourceVersion"] = str(self._version)
        self._log.append((self._version, request.collection, kind, item, old))
        self._changed.notify_all()
        return item

    def _get(self, request: Request, _: object) -> Json:
        if request.name:
            return self._found(request)
        items = [item for key, item in sorted(self._objects.items()) if key[0] == request.collection and _matches(item, request)]
        start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 0)) or len(items) + 1
        metadata = {"resourceVersion": str(self._version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        # As for built-in kinds: the items don't say what they are.
        bare = [{name: value for name, value in item.items() if name not in ("kind", "apiVersion")} for item in items]
        return {"kind": "List", "metadata": metadata, "items": bare[start : start + limit]}

    def _post(self, request: Request, item: Json) -> Json:
        request.name = item["metadata"]["name"]
        if self._key(request) in self._objects:
            raise Refusal(409, "AlreadyExists", f'{request.collection} "{request.name}" already exists')
        item["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": request.namespace}
        if "dryRun" in request.query:
            return item
        self._objects[self._key(request)] = item = self._stamp(request, "ADDED", item)
        return item

    def _put(self, request: Request, item: Json) -> Json:
        old = self._found(request)
        if item["metadata"].get("resourceVersion", old["metadata"]["resourceVersion"]) != old["metadata"]["resourceVersion"]:
            raise Refusal(409, "Conflict", "the object has been modified")
        self._objects[self._key(request)] = item = self._stamp(request, "MODIFIED", item)
        return item

    def _patch(self, request: Request, patch: Json) -> Json:
        return self._put(request, _merged(self._found(request), patch))

    def _delete(self, request: Request, options: Json) -> Json:
        old = self._found(request)
        if any(old["metadata"][name] != wanted for name, wanted in (options.get("preconditions") or {}).items()):
            raise Refusal(409, "Conflict", "the UID or the resourceVersion in the precondition differs")
        self._stamp(request, "DELETED", old)
        del self._objects[self._key(request)]
        return {"kind": "Status", "status": "Success"}


def _line(kind: str, item: Json) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _matches(item: Json, request: Request) -> bool:
    if request.namespace and item["metadata"].get("namespace") != request.namespace:
        return False
    name, _, value = request.query.get("labelSelector", "").partition("=")
    return not name or (item["metadata"].get("labels") or {}).get(name) == value


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
