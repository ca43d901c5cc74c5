"""One HTTP exchange with the API server: configuration, credentials, TLS and connections of the official client, nothing more of it.

In: method, path and body. Out: urllib3's answer, whatever its status. Its typed layer isn't used (it decodes 40 times slower than
`json`), nor are its retries: who calls knows whether a call may be repeated.
"""

import http.client
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import load_incluster_config
from kubernetes.config.kube_config import load_kube_config

from finetune_operator.runtime.clock import Clock
from finetune_operator.runtime.errors import Unreachable

log = structlog.get_logger()

CONNECT_SECONDS: Final = 10.0
TOKEN_CHECK_SECONDS: Final = 1.0
RELOAD_SECONDS: Final = 5.0
# What a broken connection may raise; urllib3 doesn't wrap all of http.client, and a socket that another thread shuts down is a ValueError.
BROKEN: Final = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


def configuration(kubeconfig: Path | None) -> Configuration:
    """The official client's configuration: of a kubeconfig, or of the pod that we are in. Never its process-wide default."""
    loaded = Configuration()
    if kubeconfig is None:
        load_incluster_config(client_configuration=loaded)
    else:
        load_kube_config(config_file=str(kubeconfig), client_configuration=loaded, persist_config=False)
    return loaded


class Transport:
    """Connections to one API server. Thread-safe; a watch takes a connection for itself."""

    def __init__(
        self,
        load: Callable[[], Configuration],
        *,
        clock: Clock,
        user_agent: str,
        pool_size: int = 16,
        observe: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """`load` is called again when the API server says 401; `observe(method, code, host)` after every exchange."""
        self._load = load
        self._clock = clock
        self._pool_size = pool_size
        self._observe = observe or (lambda method, code, host: None)
        self._lock = threading.Lock()
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}
        self._connect()

    def _connect(self) -> None:
        loaded = self._load()
        # Connections beyond this number are made and thrown away: slow, never wrong.
        loaded.connection_pool_maxsize = self._pool_size
        loaded.keep_alive = True
        self.host: str = loaded.host.rstrip("/")
        self._address = urllib3.util.parse_url(self.host).netloc or self.host
        self._configuration = loaded
        self._manager: urllib3.PoolManager = RESTClientObject(loaded).pool_manager
        # Through a plain-HTTP proxy the request line needs the whole address, which only the manager writes.
        self._direct = self._manager.proxy is None or self.host.startswith("https")
        self._pool: Any = self._manager.connection_from_url(self.host) if self._direct else self._manager
        self._prefix = urllib3.util.parse_url(self.host).path or "" if self._direct else self.host
        self._authorization: str | None = None
        self._loaded_at = self._checked_at = self._clock.monotonic()
        self._authorization = self._token()

    def _token(self) -> str | None:
        """The Authorization header. The official client re-reads a pod's token file or runs an exec plugin when it is time to."""
        try:
            token: str | None = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except Exception as error:  # a token file in the middle of its replacement, a plugin that fails: the old one may still do
            log.warning("credentials not refreshed", error=str(error))
            return self._authorization
        return token.strip() if token else None

    def _credentials(self) -> str | None:
        with self._lock:
            now = self._clock.monotonic()
            if now - self._checked_at >= TOKEN_CHECK_SECONDS:
                self._checked_at = now
                self._authorization = self._token()
            return self._authorization

    def _reload(self, refused: Configuration) -> bool:
        """Load everything anew (a rotated certificate or token file); False if what was `refused` can't be newer."""
        with self._lock:
            if self._configuration is not refused:
                return True  # another thread has
            if self._clock.monotonic() - self._loaded_at < RELOAD_SECONDS:
                return False
            self._loaded_at = self._clock.monotonic()
            try:
                self._connect()
            except Exception as error:
                log.warning("credentials not loaded again", error=str(error))
                return False
            return True

    def send(
        self, method: str, path: str, *, body: bytes | None = None, content_type: str = "", timeout: urllib3.Timeout, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        """The answer, read to its end unless `stream`. Raises Unreachable without one. A 401 is tried once more with fresh credentials."""
        used = self._configuration
        answer = self._send(method, path, body, content_type, timeout, stream)
        if answer.status == 401 and self._reload(used):
            if stream:
                answer.close()
            answer = self._send(method, path, body, content_type, timeout, stream)
        return answer

    def _send(
        self, method: str, path: str, body: bytes | None, content_type: str, timeout: urllib3.Timeout, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        headers = dict(self._headers)
        if authorization := self._credentials():
            headers["Authorization"] = authorization
        if content_type:
            headers["Content-Type"] = content_type
        try:
            answer: urllib3.BaseHTTPResponse = self._pool.urlopen(
                method,
                self._prefix + path,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,  # a redirect would carry the token elsewhere
                preload_content=not stream,
                **({"assert_same_host": False} if self._direct else {}),
            )
        except BROKEN as error:
            self._observe(method, "<error>", self._address)
            raise Unreachable(f"{type(error).__name__}: {error} ({method} {path})", reason="Unreachable") from error
        self._observe(method, str(answer.status), self._address)
        return answer

    def close(self) -> None:
        """Close idle connections."""
        self._manager.clear()
