"""What the environment says of a cluster that is there already; no cluster is needed for that."""

from pathlib import Path

import pytest
from tests.cluster.existing import Named, existing_cluster, named
from tests.testcluster.operator_image import image_name

KIND = {"FINETUNE_TEST_KUBECONFIG": "/home/ann/.kube/config", "FINETUNE_TEST_ADDRESS": "172.18.0.1"}


@pytest.mark.parametrize("environment", [{}, {"FINETUNE_TEST_KUBECONFIG": ""}, {"FINETUNE_TEST_ADDRESS": "172.18.0.1"}])
def test_without_a_kubeconfig_the_tests_make_a_cluster_of_their_own(environment: dict[str, str]) -> None:
    assert named(environment) is None


def test_without_an_address_it_says_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"KUBECONFIG=/home/ann/\.kube/config without FINETUNE_TEST_ADDRESS; set it to an address"):
        named(KIND | {"FINETUNE_TEST_ADDRESS": ""})


def test_images_are_the_working_trees_unless_others_are_named() -> None:
    its = named(KIND)
    assert its is not None
    assert its.operator_image == image_name("operator")
    assert its.trainer_image == image_name("trainer")
    assert its.runtime_class is None


def test_what_is_named_is_taken() -> None:
    images = {"FINETUNE_TEST_OPERATOR_IMAGE": "registry.example/op:2", "FINETUNE_TEST_TRAINER_IMAGE": "registry.example/trainer:3"}
    assert named(KIND | images | {"FINETUNE_TEST_RUNTIME_CLASS": "gvisor"}) == Named(
        kubeconfig=Path("/home/ann/.kube/config"),
        address="172.18.0.1",
        operator_image="registry.example/op:2",
        trainer_image="registry.example/trainer:3",
        runtime_class="gvisor",
    )


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    its = named(KIND | {"FINETUNE_TEST_ADDRESS": "203.0.113.7"})
    assert its is not None
    with pytest.raises(RuntimeError, match=r"203\.0\.113\.7 is no address of this machine"), existing_cluster(its, tmp_path):
        pass
