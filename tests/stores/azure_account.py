"""Azurite's one account, which its documentation names, and what the owner of an account does before a run: a container."""

import base64
import hashlib
import hmac
import urllib.request
from email.utils import formatdate

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-08-06"


def make_container(endpoint: str, name: str) -> None:
    """Signed with the account's key (Azure's "Authorize with Shared Key"), since obstore makes no containers."""
    date = formatdate(usegmt=True)
    signed = "\n".join(["PUT", *[""] * 11, f"x-ms-date:{date}\nx-ms-version:{_VERSION}", f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"])
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()).decode()
    headers = {"x-ms-date": date, "x-ms-version": _VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()
