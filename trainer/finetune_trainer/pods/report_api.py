"""The FineTuneReport on the API server: the only file of the trainer that talks to the Kubernetes API.

In: a namespace, a name, and the folder of the pod's token. Out: the object, or Unavailable, which says whether to try again. What is
reported, and when, is not known here.
"""

import json
import re
import ssl
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote

import urllib3

from finetune_api.bounded_text import shortened
from finetune_api.keys import API_VERSION
from finetune_api.report import REPORTS, FineTuneReport, FineTuneReportStatus, parse_report

_NO_USE_AGAIN: Final = (400, 404, 422)  # refused, or no such object: the same request gets the same answer


class Unavailable(Exception):
    """The server didn't take a request. `again`: whether the same request may fare better later."""

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class ReportApi:
    """The two calls on one FineTuneReport. Token and authority are read for each call, because the kubelet renews them. Not thread-safe."""

    def __init__(self, host: str, port: int, namespace: str, name: str, token_folder: Path, *, timeout_seconds: float) -> None:
        self._host, self._port, self._token_folder = host, port, token_folder
        self._path = f"/apis/{API_VERSION}/namespaces/{quote(namespace, safe='')}/{REPORTS}/{quote(name, safe='')}"
        self._timeout = urllib3.Timeout(total=timeout_seconds)
        self._authority = ""
        self._pool: urllib3.HTTPSConnectionPool | None = None

    def get(self) -> FineTuneReport:
        """The object. Raises Unavailable."""
        return self._call("GET", self._path, None)

    def patch_status(self, status: FineTuneReportStatus) -> FineTuneReport:
        """Replace the status; the object after it. Raises Unavailable."""
        return self._call("PATCH", f"{self._path}/status", json.dumps(status.to_patch(), allow_nan=False).encode())

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def _call(self, method: str, path: str, body: bytes | None) -> FineTuneReport:
        try:
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json", "User-Agent": "finetune-trainer"}
            headers |= {} if body is None else {"Content-Type": "application/merge-patch+json"}
            reply = self._connections().request(
                method, path, body=body, headers=headers, timeout=self._timeout, retries=False, redirect=False
            )
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            self.close()
            raise Unavailable(str(error)) from error
        if reply.status != 200:
            raise Unavailable(f"HTTP {reply.status}: {_refusal(reply.data)}", again=reply.status not in _NO_USE_AGAIN)
        report = parse_report(_json(reply.data))
        if report is None:
            raise Unavailable("it answers with something that is no FineTuneReport")
        return report

    def _token(self) -> str:
        path = self._token_folder / "token"
        token = path.read_text(encoding="utf-8").strip()
        # Checked here, because the HTTP client's own error would show it.
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Unavailable(f"{path} holds no token")
        return token

    def _connections(self) -> urllib3.HTTPSConnectionPool:
        authority = (self._token_folder / "ca.crt").read_text(encoding="ascii", errors="ignore")  # comments may be anything
        if self._pool is None or authority != self._authority:
            self.close()
            # Not create_default_context: for an empty file it trusts the system's authorities, and from Python 3.13 on it asks for
            # extensions that the authorities of many clusters don't have. This one checks chain and host name too.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=authority)
            self._authority = authority
            self._pool = urllib3.HTTPSConnectionPool(self._host, self._port, ssl_context=context)
        return self._pool


def _json(data: bytes) -> object:
    try:
        return cast(object, json.loads(data))
    except (ValueError, RecursionError):
        return None


def _refusal(data: bytes) -> str:
    """The message of the API server's Status; nothing of an answer that has another form, for it may be anything."""
    status = _json(data)
    message = status.get("message") if isinstance(status, dict) else None
    return shortened(message, 300) if isinstance(message, str) else "no reason given"
