"""Who of several processes may write: whoever holds a coordination.k8s.io Lease.

The rules are client-go's. Another's hold is judged by when *we* last saw the Lease change, never by the times in it: clocks differ.
Our own hold is counted from when we *sent* the last renewal that succeeded, on a clock that doesn't jump and goes on while the machine
sleeps. Others may take over `lease_seconds` after that; we stop writing `renew_deadline_seconds` after it, whatever thread hangs.
"""

import random
import threading
from collections.abc import Callable
from typing import Final

import structlog

from finetune_operator.runtime.api import Api, ApiError, Conflict, Json, NotFound, Resource
from finetune_operator.runtime.clock import Clock

log = structlog.get_logger()

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
RETRY_JITTER: Final = 0.5
MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


class LeaderElector:
    """One candidate. `identity` has to be unique to this process (a host name alone isn't, across restarts)."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        lease_seconds: float = 15,
        renew_deadline_seconds: float = 10,
        retry_seconds: float = 2,
        on_leading: Callable[[bool], None] = lambda leading: None,
    ) -> None:
        """`on_leading` is told of each change, for metrics."""
        if not lease_seconds > renew_deadline_seconds > retry_seconds * (1 + RETRY_JITTER) > 0 or lease_seconds < 1:
            raise ValueError(
                f"lease_seconds={lease_seconds} > renew_deadline_seconds={renew_deadline_seconds} > {1 + RETRY_JITTER} * "
                f"retry_seconds={retry_seconds} doesn't hold; use 15, 10 and 2"
            )
        # A call that hangs may not use up the time in which another could renew.
        self._api = api.with_timeout(renew_deadline_seconds / 2)
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._renew_deadline_seconds = renew_deadline_seconds
        self._retry_seconds = retry_seconds
        self._on_leading = on_leading
        self._lock = threading.Lock()
        self._renewed_at: float | None = None  # when the last successful renewal was sent; None: we don't lead
        self._lease: Json = {}  # as last seen
        self._spec: Json | None = None
        self._changed_at = 0.0  # when we saw self._spec first
        self._log = log.bind(lease=f"{namespace}/{name}", identity=identity)

    def may_write(self) -> bool:
        """This process leads, for sure. To be asked straight before each write: no pause before the question can fool it."""
        return self.seconds_to_write() > 0

    def seconds_to_write(self) -> float:
        """How long a write that starts now may take: nobody else can lead before. 0 when none may start (see Api.fenced)."""
        renewed_at = self._renewed_at
        if renewed_at is None:
            return 0.0
        age = self._clock.monotonic() - renewed_at
        return self._lease_seconds - age if age < self._renew_deadline_seconds else 0.0

    def run(self, stop: threading.Event, on_started: Callable[[], None], on_stopped: Callable[[], None]) -> bool:
        """Wait for the lease, keep it until `stop`, give it back. False if it was lost instead: then this process had better end.

        `on_started` has to return soon. `on_stopped` is called once if that was: on stop *before* the lease is given back, and it is
        renewed meanwhile (finish your work); on loss when writing has become impossible.
        """
        if not self._acquire(stop):
            return True
        self._log.info("leading")
        self._on_leading(True)
        finish = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(finish,), name="lease", daemon=True)
        renewing.start()
        try:
            on_started()
            kept = self._guard(stop)
            if not kept:
                self._lose()
            on_stopped()
        finally:
            finish.set()
            renewing.join(self._renew_deadline_seconds)
            self._release()
        return kept

    def _acquire(self, stop: threading.Event) -> bool:
        while not stop.is_set():
            sent = self._clock.monotonic()
            if self._try():
                with self._lock:
                    self._renewed_at = sent
                return True
            self._clock.wait(stop, self._pause())
        return False

    def _pause(self) -> float:
        return self._retry_seconds * random.uniform(1, 1 + RETRY_JITTER)

    def _guard(self, stop: threading.Event) -> bool:
        """True on `stop`, False when the last renewal is too long ago. Does no I/O, so nothing makes it late."""
        while not stop.is_set():
            renewed_at = self._renewed_at
            left = 0.0 if renewed_at is None else renewed_at + self._renew_deadline_seconds - self._clock.monotonic()
            if left <= 0:
                return False
            self._clock.wait(stop, min(left, self._retry_seconds))
        return self.may_write()

    def _renew(self, finish: threading.Event) -> None:
        """Renew until `finish`, or until it is too late."""
        while not self._clock.wait(finish, self._pause()):
            if not self.may_write():
                return
            sent = self._clock.monotonic()
            if not self._try():
                if self._holder() not in (self._identity, ""):
                    return self._lose()  # somebody took it away: no reason to wait for the deadline
                continue
            with self._lock:
                # A renewal that comes back too late doesn't bring the hold back: others have been told that it is over.
                if not self.may_write():
                    return
                self._renewed_at = sent

    def _lose(self) -> None:
        with self._lock:
            leading, self._renewed_at = self._renewed_at is not None, None
        if leading:
            self._on_leading(False)
            self._log.error("lease lost", holder=self._holder())

    def _release(self) -> None:
        """Stop writing, then let the next one start at once."""
        with self._lock:
            held = self.may_write()
            leading, self._renewed_at = self._renewed_at is not None, None
        if leading:
            self._on_leading(False)
        if not held:
            return
        try:
            self._write(self._lease, holder="", lease_seconds=1)
            self._log.info("lease given back")
        except ApiError as error:
            self._log.warning("lease not given back: the next leader waits until it expires", error=str(error))

    def _try(self) -> bool:
        """One try to take or renew the lease. A network error is a no like any other."""
        try:
            if self._renewed_at is not None and self._holder() == self._identity and self._renewed_quickly():
                return True
            return self._taken()
        except Conflict:  # another candidate was faster
            return False
        except ApiError as error:
            self._log.warning("lease not renewed" if self._renewed_at is not None else "lease not taken", error=str(error))
        except Exception:
            self._log.exception("lease not understood")
        return False

    def _renewed_quickly(self) -> bool:
        """Renew what we saw last, without reading it first; False if it has changed, which may be our own lost answer."""
        try:
            self._see(self._write(self._lease, holder=self._identity, lease_seconds=self._lease_seconds))
        except (Conflict, NotFound):
            return False
        return True

    def _taken(self) -> bool:
        try:
            lease = self._api.get(LEASES, self._namespace, self._name)
        except NotFound:
            manifest: Json = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
            }
            self._see(self._api.create(LEASES, self._namespace, self._claimed(manifest, self._identity, self._lease_seconds)))
            return True
        self._see(lease)
        if not self._free():
            return False
        self._see(self._write(lease, holder=self._identity, lease_seconds=self._lease_seconds))
        return True

    def _see(self, lease: Json) -> None:
        spec = lease.get("spec") or {}
        if spec != self._spec:
            if spec.get("holderIdentity") not in (self._identity, self._holder()):
                self._log.info("lease seen", holder=spec.get("holderIdentity") or "nobody")
            self._spec, self._changed_at = spec, self._clock.monotonic()
        self._lease = lease

    def _holder(self) -> str:
        """Who held it when we last saw it; "" for nobody."""
        return (self._spec or {}).get("holderIdentity") or ""

    def _free(self) -> bool:
        """Nobody else's, or its holder hasn't changed it for as long as it said it would hold it."""
        seconds = (self._spec or {}).get("leaseDurationSeconds") or self._lease_seconds
        return self._holder() in ("", self._identity) or self._clock.monotonic() >= self._changed_at + seconds

    def _write(self, lease: Json, *, holder: str, lease_seconds: float) -> Json:
        """Replace it, if nobody has since."""
        return self._api.replace(LEASES, self._namespace, self._name, self._claimed(lease, holder, lease_seconds))

    def _claimed(self, lease: Json, holder: str, lease_seconds: float) -> Json:
        """`lease` with us as its holder. Its times are for people: nobody decides by them."""
        spec = dict(lease.get("spec") or {})
        now = self._clock.now().strftime(MICRO_TIME)
        if holder != spec.get("holderIdentity"):
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if lease.get("spec") else 0)
        spec |= {"holderIdentity": holder, "leaseDurationSeconds": max(round(lease_seconds), 1), "renewTime": now}
        return {**lease, "spec": spec}
