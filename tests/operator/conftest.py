"""A cluster in memory, and who plays its pods and KubeRay."""

import pytest

from .fakes import Kubelet, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def kubelet(world: World) -> Kubelet:
    return Kubelet(world.api, now=world.clock.now)
