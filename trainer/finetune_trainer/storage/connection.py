"""A client of object storage that is made anew when its keys have changed: what S3, Google Cloud Storage and Azure have in common."""

import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from finetune_api.errors import InvalidStorage
from finetune_trainer.storage.errors import Place

Client = TypeVar("Client")
Keys = TypeVar("Keys")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a call may take and how often it is tried, with exponential back-off and jitter of at most 20 s between tries."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    attempts: int = 6
    parallel: int = 4  # parts in flight of one object


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Generic[Keys]):
    """Where a server is and how it is spoken to. `credentials` is asked again when keys were refused; None: the library's own chain."""

    place: Place
    endpoint: str | None
    credentials: Callable[[], Keys | None]
    ca_bundle: Path | None
    limits: Limits


class Connection(Generic[Keys, Client]):
    """Calls through a client; each kind of server makes its client and translates its errors."""

    def __init__(self, settings: Settings[Keys]) -> None:
        self.settings, self.place, self.limits = settings, settings.place, settings.limits
        self._current: tuple[Keys | None, Client] | None = None
        self._lock = threading.Lock()

    def _connect(self, keys: Keys | None) -> Client:
        raise NotImplementedError

    def _errors(self, doing: str) -> AbstractContextManager[None]:
        """Around a call: raises our errors only, each from the library's."""
        raise NotImplementedError

    def _is_refusal(self, error: BaseException | None) -> bool:
        """Whether the library's error says that the keys were refused."""
        raise NotImplementedError

    def call(self, doing: str, action: Callable[[Client], T]) -> T:
        """`action(client)`; once more if the keys were refused and have changed since. Raises our errors only."""
        used: Keys | None = None
        try:
            with self._errors(doing):
                used, client = self._client()
                return action(client)
        except InvalidStorage as error:
            if not self._is_refusal(error.__cause__) or not self._renew(used):
                raise
        with self._errors(doing):
            return action(self._client()[1])

    def _client(self) -> tuple[Keys | None, Client]:
        """Keys, and the client made from them."""
        with self._lock:
            if self._current is None:
                keys = self.settings.credentials()
                check_ca_bundle(self.settings.ca_bundle, self.place)
                self._current = (keys, self._connect(keys))
            return self._current

    def _renew(self, refused: Keys | None) -> bool:
        """Read the keys again; whether they, or those that another thread read meanwhile, are others than the refused ones."""
        with self._lock:
            if self._current is None or self._current[0] == refused:
                fresh = self.settings.credentials()
                if fresh == refused:
                    return False
                self._current = (fresh, self._connect(fresh))
            return True


def check_ca_bundle(ca_bundle: Path | None, place: Place) -> None:
    """Raise InvalidStorage unless the file, if there is to be one, holds certificates."""
    if ca_bundle is None:
        return
    try:
        ssl.create_default_context(cafile=str(ca_bundle))
    except OSError as error:  # ssl.SSLError is one
        raise InvalidStorage(
            f"{place.fields.storage}={place.url}: {place.fields.ca_bundle} holds no readable CA certificates ({error.strerror or error}); "
            "give a ConfigMap whose ca.crt is in PEM format"
        ) from error


def is_loopback(endpoint: str | None) -> bool:
    """Whether an endpoint is this machine, to which no proxy leads back."""
    host = urlsplit(endpoint or "").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
