"""`finetune dashboard`: the Ray dashboard of a job's running attempt, on a port of this machine."""

import json
import time
from typing import Annotated

import typer

from finetune_cli.cluster.options import AsJson, ClusterContext, JobName, Namespace, client_of

_PORT = 8265


def dashboard(
    name: JobName,
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port of this machine; 0 is any free one.")] = _PORT,
    token: Annotated[bool, typer.Option("--token/--no-token", help="Print the token that the dashboard asks for.")] = True,
    namespace: Namespace = None,
    cluster_context: ClusterContext = None,
    as_json: AsJson = False,
) -> None:
    """Forward a port to a job's Ray dashboard until Ctrl-C, and print its address and token."""
    client = client_of(namespace, cluster_context)
    with client.dashboard(name, local_port=port, with_token=token) as found:
        if as_json:
            print(json.dumps({"url": found.url, "token": found.token}), flush=True)
        else:
            print(f"Ray dashboard of {name}: {found.url}", flush=True)
            if found.token:
                print(f"token, for its dialog:  {found.token}", flush=True)
            print("Ctrl-C ends it", flush=True)
        while client.dashboard_is_there(found):
            time.sleep(5)
    print(f"the attempt of {name} that this dashboard showed has ended")
