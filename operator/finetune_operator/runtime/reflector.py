"""Keeps a Store equal to what the API server has: lists, then watches, for ever.

Survives what a network and an API server do: a watch that ends, breaks, goes silent or turns to garbage is resumed from the last
version; a version that is too old (410), or that the server keeps refusing, means a new list, in which objects that vanished meanwhile
are found and reported. Nothing is tried again without a wait that grows, except after a watch that lived.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from finetune_operator.runtime.api import (
    PAGE,
    Api,
    ApiError,
    Forbidden,
    Gone,
    Invalid,
    Json,
    NotFound,
    Resource,
    Unreachable,
    Watch,
    WatchEvent,
)
from finetune_operator.runtime.backoff import Backoff
from finetune_operator.runtime.clock import Clock
from finetune_operator.runtime.store import Name, Store, name_of

__all__ = ["Reflector", "Store"]

log = structlog.get_logger()

WATCH_SECONDS: Final = 240.0
READ_TIMEOUT_SECONDS: Final = 90.0
LIVED_SECONDS: Final = 10.0  # a watch of this length is a working one
REFUSALS_BEFORE_LIST: Final = 3
# A missing CRD or right is put right by a person who then looks at the clock.
NOTICED_SECONDS: Final = 10.0
# Right after its start an API server may not serve a CRD yet: its objects are believed gone only when it stays absent.
FORGET_AFTER_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 60.0
JOIN_SECONDS: Final = 5.0

OnChange = Callable[[Json | None, Json | None], None]


class Reflector:
    """One resource: of the whole cluster, or of some namespaces (each with its own watch, so that no cluster-wide right is needed)."""

    def __init__(
        self,
        api: Api,
        resource: Resource,
        *,
        store: Store,
        on_change: OnChange,
        clock: Clock,
        namespaces: Sequence[str] | None = None,
        label_selector: str = "",
        on_state: Callable[[], None] = lambda: None,
        watch_seconds: float = WATCH_SECONDS,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        """`on_change(old, new)`: None is "wasn't" or "isn't there". `on_state()`: synced, absent or forbidden has changed.

        Both are called in the reflector's threads and have to return soon.
        """
        self.resource = resource
        self.synced = threading.Event()
        self._clock = clock
        self._on_state = on_state
        self._scopes = [
            _Scope(self, api, namespace, store, on_change, label_selector, watch_seconds, read_timeout_seconds, clock)
            for namespace in (namespaces if namespaces is not None else [None])
        ]
        self._threads: list[threading.Thread] = []

    @property
    def absent(self) -> bool:
        """The API server doesn't know the resource: its CRD isn't installed."""
        return any(scope.absent for scope in self._scopes)

    @property
    def forbidden(self) -> bool:
        """We may not list or watch it (somewhere)."""
        return any(scope.forbidden for scope in self._scopes)

    @property
    def listed(self) -> bool:
        """Everything that may be listed has been, and something may."""
        return any(scope.listed for scope in self._scopes) and all(scope.listed or scope.forbidden for scope in self._scopes)

    @property
    def asked(self) -> bool:
        """Everything has been listed, or was found absent or forbidden."""
        return all(scope.listed or scope.absent or scope.forbidden for scope in self._scopes)

    def forbidden_in(self, namespace: str) -> bool:
        """We may not list or watch it there."""
        return any(scope.forbidden for scope in self._scopes_of(namespace))

    def listed_in(self, namespace: str) -> bool:
        """What is there has been listed, and followed for as long as we may."""
        return any(scope.listed for scope in self._scopes_of(namespace))

    def _scopes_of(self, namespace: str) -> "list[_Scope]":
        return [scope for scope in self._scopes if scope.namespace in (None, namespace)]

    def run(self, stop: threading.Event) -> None:
        """Reflect until `stop` is set."""
        threads = [
            threading.Thread(
                target=scope.run, args=(stop,), name=f"reflector-{self.resource.plural}-{scope.namespace or 'all'}", daemon=True
            )
            for scope in self._scopes
        ]
        for thread in threads:
            thread.start()
        self._threads = threads  # from here on they are asked for their health
        stop.wait()
        for scope in self._scopes:
            scope.interrupt()
        for thread in threads:
            thread.join(JOIN_SECONDS)

    def problem(self, limit_seconds: float = 300) -> str | None:
        """Why this process should be restarted: a thread that died or that has been silent for `limit_seconds`; None if well.

        An API server that can't be reached is no such reason.
        """
        for thread, scope in zip(self._threads, self._scopes, strict=True) if self._threads else ():
            silent = self._clock.monotonic() - scope.alive_at
            if not thread.is_alive():
                return f"{thread.name} has died"
            if silent > limit_seconds:
                return f"{thread.name} has been silent for {silent:.0f} s"
        return None

    def state_changed(self) -> None:
        """A scope has other flags than before."""
        if all(scope.listed for scope in self._scopes):
            self.synced.set()
        self._on_state()


class _Scope:
    """One list and watch: a namespace, or the whole cluster when there is none."""

    def __init__(
        self,
        reflector: Reflector,
        api: Api,
        namespace: str | None,
        store: Store,
        on_change: OnChange,
        label_selector: str,
        watch_seconds: float,
        read_timeout_seconds: float,
        clock: Clock,
    ) -> None:
        self.namespace = namespace
        self.name = f"reflector-{reflector.resource.plural}-{namespace or 'all'}"
        self.listed = self.absent = self.forbidden = False
        self.alive_at = clock.monotonic()
        self._reflector = reflector
        self._api = api
        self._store = store
        self._on_change = on_change
        self._selector = label_selector
        self._watch_seconds = watch_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._clock = clock
        self._backoff = Backoff()
        self._version: str | None = None  # None: to be listed
        self._refusals = 0
        self._streams = True  # all objects come by a watch; by a list, where the API server has no such watches
        self._broke_off = False  # the last such watch
        self._absent_since: float | None = None
        self._watch: Watch | None = None
        self._log = log.bind(resource=reflector.resource.plural, namespace=namespace)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            seconds = self._turn(stop)
            self._alive()
            if seconds > 0:
                self._clock.wait(stop, seconds)

    def interrupt(self) -> None:
        """Wake the thread that reads; `stop` is set already."""
        if self._watch:
            self._watch.stop()

    def _turn(self, stop: threading.Event) -> float:
        """List if need be, watch until that ends; how long to wait before the next turn."""
        started = self._clock.monotonic()
        try:
            if self._version is None:
                self._version = self._list()
            started = self._clock.monotonic()
            self._follow(self._version, stop)
        except Exception as error:
            if self._clock.monotonic() - started >= LIVED_SECONDS:
                self._backoff.reset()
            return 0.0 if stop.is_set() else self._failed(error)
        if self._clock.monotonic() - started >= LIVED_SECONDS:
            self._backoff.reset()
            return 0.0
        return self._backoff.seconds()

    def _list(self) -> str:
        """Make the store equal to what there is; the version of that."""
        seen, version = self._stream() if self._streams and not self._broke_off else self._pages()
        self._broke_off = False
        for name in self._store.names(self.namespace) - seen:
            self._remove(name)
        self._absent_since = None
        self._state(listed=True, absent=False)
        return version

    def _stream(self) -> tuple[set[Name], str]:
        """Everything by a watch, which costs etcd nothing and comes one object after the other. If it breaks off, a list is next."""
        seen: set[Name] = set()
        self._broke_off = True
        try:
            with self._api.watch(
                self._reflector.resource,
                self.namespace,
                "",
                label_selector=self._selector,
                timeout_seconds=self._watch_seconds,
                read_timeout_seconds=self._read_timeout_seconds,
                from_the_beginning=True,
            ) as watch:
                self._watch = watch
                for event in watch:
                    self._alive()
                    if event.is_all:
                        return seen, event.object["metadata"]["resourceVersion"]
                    self._apply(event)
                    if event.type != "BOOKMARK":
                        (seen.discard if event.type == "DELETED" else seen.add)(name_of(event.object))
        except Invalid:  # its feature gate WatchList is off
            self._streams = False
            return self._pages()
        except (Forbidden, NotFound):
            self._broke_off = False
            raise
        raise Unreachable("the watch ended before all objects had come", reason="Unreachable")

    def _pages(self) -> tuple[set[Name], str]:
        """Everything by a list, page after page."""
        try:
            return self._read_pages(limit=PAGE)
        except Gone:  # compacted between two pages: all at once, then
            return self._read_pages(limit=0)

    def _read_pages(self, limit: int) -> tuple[set[Name], str]:
        seen: set[Name] = set()
        version = ""
        pages = self._api.pages(self._reflector.resource, self.namespace, label_selector=self._selector, limit=limit)
        for items, version_of_list in pages:
            self._alive()
            version = version_of_list
            for item in items:
                seen.add(name_of(item))
                self._put(item)
        return seen, version

    def _follow(self, version: str, stop: threading.Event) -> None:
        """Watch from `version` until the watch ends."""
        with self._api.watch(
            self._reflector.resource,
            self.namespace,
            version,
            label_selector=self._selector,
            timeout_seconds=self._watch_seconds * random.uniform(0.9, 1.1),
            read_timeout_seconds=self._read_timeout_seconds,
        ) as watch:
            self._watch = watch
            if stop.is_set():
                return
            self._state(forbidden=False)
            for event in watch:
                self._alive()
                self._apply(event)
                self._version = event.object["metadata"]["resourceVersion"]
                self._refusals = 0

    def _apply(self, event: WatchEvent) -> None:
        if event.type == "DELETED":
            self._remove(name_of(event.object))
        elif event.type != "BOOKMARK":
            self._put(event.object)

    def _put(self, item: Json) -> None:
        if self._store.version(name_of(item)) != item["metadata"]["resourceVersion"]:
            self._report(self._store.put(item), item)

    def _remove(self, name: Name) -> None:
        if old := self._store.remove(name):
            self._report(old, None)

    def _report(self, old: Json | None, new: Json | None) -> None:
        try:
            self._on_change(old, new)
        except Exception:
            self._log.exception("a change was not taken", object="/".join(name_of(new or old or {})))

    def _failed(self, error: Exception) -> float:
        """Take note of why a turn ended; how long to wait."""
        wait = self._backoff.seconds(at_most=NOTICED_SECONDS if isinstance(error, NotFound | Forbidden) else None)
        if isinstance(error, Unreachable):
            self._log.warning("watch interrupted", error=str(error), again_in_seconds=round(wait, 1))
        elif isinstance(error, ApiError):
            wait = max(wait, min(error.retry_after_seconds or 0.0, PATIENCE_SECONDS))
            self._refused(error, wait)
        else:
            self._version = None
            self._log.exception("reflector failed", again_in_seconds=round(wait, 1))
        return wait

    def _refused(self, error: ApiError, wait: float) -> None:
        """The API server said no: to a list, or to a watch from our version."""
        self._refusals += 1
        # A server restored from a backup refuses versions of its future, and never says 410.
        if isinstance(error, Gone | NotFound) or self._refusals >= REFUSALS_BEFORE_LIST:
            self._version, self._refusals = None, 0
        known = (self.absent, self.forbidden)
        if isinstance(error, NotFound):
            self._missing()
        elif isinstance(error, Forbidden):
            self._state(forbidden=True, absent=False)  # who may not ask isn't told whether there is such a kind
        # Said once, not every ten seconds for as long as a CRD is absent.
        say = self._log.debug if isinstance(error, Gone) or (any(known) and known == (self.absent, self.forbidden)) else self._log.warning
        say("list or watch refused", error=str(error), again_in_seconds=round(wait, 1))

    def _missing(self) -> None:
        now = self._clock.monotonic()
        self._absent_since = self._absent_since if self._absent_since is not None else now
        self._state(absent=True, forbidden=False)
        if now - self._absent_since >= FORGET_AFTER_SECONDS:
            for name in self._store.names(self.namespace):
                self._remove(name)

    def _state(self, **flags: bool) -> None:
        if any(getattr(self, name) != value for name, value in flags.items()):
            for name, value in flags.items():
                setattr(self, name, value)
            self._reflector.state_changed()

    def _alive(self) -> None:
        self.alive_at = self._clock.monotonic()
