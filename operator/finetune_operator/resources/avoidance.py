"""Keeping pods away from nodes on which attempts failed: a preference that is added to what the user asks for.

A preference, so that a cluster without other nodes still runs the job. Karpenter, moreover, makes no node for a pod that has a requirement
on the label of a node's name, or any on its name itself; preferences it drops where it can't meet them.
"""

from collections.abc import Sequence
from typing import Any, Final

from finetune_operator.resources.owner import Manifest

# The kubelet sets it to the node's name, unless it was told another one.
NODE_NAME_LABEL: Final = "kubernetes.io/hostname"
# What is told of nodes that an attempt avoids.
WHY_AVOIDED: Final = "on which two attempts failed or a check found devices or network slow"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
# The largest that there is.
_WEIGHT: Final = 100


def avoiding(affinity: Manifest | None, nodes: Sequence[str]) -> Manifest | None:
    """The affinity with a preference for all other nodes; every term of the user's stays.

    >>> avoiding(None, ()) is None
    True
    """
    if not nodes:
        return affinity
    away = {"matchExpressions": [{"key": NODE_NAME_LABEL, "operator": "NotIn", "values": list(nodes)}]}
    given: dict[str, Any] = affinity or {}
    on_nodes = given.get("nodeAffinity") or {}
    preferred = [*(on_nodes.get(_PREFERRED) or []), {"weight": _WEIGHT, "preference": away}]
    return {**given, "nodeAffinity": {**on_nodes, _PREFERRED: preferred}}
