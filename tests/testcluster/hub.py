"""The test Hub for pods, on this machine's end of the cluster's cable: `python -m tests.testcluster.hub [PORT]`.

The same server that the publication's tests use. Its repositories live in this process's memory and end with it.
"""

import sys
import threading
from typing import Final

from tests.testcluster.network import HOST_ADDRESS
from tests.trainer.hub_server import HubServer

HUB_PORT: Final = 8090
WRITE_TOKEN: Final = "hf_write"


def hub_url(port: int = HUB_PORT) -> str:
    """What pods and this machine give to `HF_ENDPOINT`."""
    return f"http://{HOST_ADDRESS}:{port}"


def hub_command() -> list[str]:
    return [sys.executable, "-m", "tests.testcluster.hub", str(HUB_PORT)]


def main(port: int) -> None:
    server = HubServer(host=HOST_ADDRESS, port=port)
    print(f"serving {server.url}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else HUB_PORT)
