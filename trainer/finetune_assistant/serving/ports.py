"""The address that something is served at. In: a host and a port. Out: a socket that has them, or what to do instead."""

import errno
import socket

from finetune_api.errors import InvalidInput


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the port; for 0 any free one. Raises InvalidInput."""
    bare = host.strip("[]")
    found = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((bare, port))
        # Without it two of ours could have the same port until the first of them listens.
        found.listen()
    except OSError as error:
        found.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInput(f"--host {host} is no address of this machine ({error.strerror}); leave it out, or try 0.0.0.0") from error
        raise InvalidInput(
            f"--port {port} on {host} can't be had ({error.strerror}), perhaps for another of its kind; try --port 0 for any free one"
        ) from error
    return found


def address(host: str, port: int) -> str:
    """`host:port` as it stands in the URL that this machine itself asks.

    >>> address("0.0.0.0", 80), address("::", 80), address("192.0.2.1", 80)
    ('127.0.0.1:80', '[::1]:80', '192.0.2.1:80')
    """
    bare = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"{f'[{bare}]' if ':' in bare else bare}:{port}"
