"""Names of services: CoreDNS on the first node's address. It forwards nothing; a name outside the cluster is refused."""

from pathlib import Path
from typing import Final

from tests.testcluster.network import DNS_ADDRESS

DOMAIN: Final = "cluster.local"


def dns_command(program: Path, folder: Path, kubeconfig: Path) -> list[str]:
    """The command that serves the cluster's names; run it inside the cluster's network."""
    corefile = folder / "Corefile"
    corefile.write_text(
        f"""\
{DOMAIN}:53 in-addr.arpa:53 {{
    bind {DNS_ADDRESS}
    errors
    ready {DNS_ADDRESS}:8181
    cache 2
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 2
    }}
}}
"""
    )
    return [str(program), "-conf", str(corefile)]
