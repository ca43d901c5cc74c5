"""What S3 servers say that is no fault of storage, and how it is told; listings in any order."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.demo.s3_server import S3Server
from tests.conftest import BUCKET
from tests.trainer.checkpoints.test_store import resumed_step, save, store
from tests.trainer.faulty_proxy import Fault, Proxy, faulty_proxy
from tests.trainer.memory_storage import MemoryStorage
from tests.trainer.storage.test_s3 import QUICK, keys, refused, s3_storage, self_signed

from finetune_api.errors import InvalidStorage, StorageFailed
from finetune_trainer.checkpoints import claims
from finetune_trainer.storage.directory import Listing, Versions
from finetune_trainer.storage.errors import Place, refuses_keys, server_error
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.probe import check_writable
from finetune_trainer.storage.s3_client import S3Credentials

PLACE = Place(url="s3://bucket/run", bucket="bucket", endpoint="http://127.0.0.1:9000")


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with faulty_proxy(s3.endpoint) as one:
        yield one


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "XAdminUserNotFound", "No user exists with the provided access key ID."),  # versitygw 1.8.0
        (403, "InvalidAccessKeyId", "Forbidden"),  # s3proxy 4.1.0
        (403, "AccessDenied", "The Access Key Id you provided does not exist in our records."),
        (401, "Unauthorized", ""),
    ],
)
def test_a_wrong_access_key_is_told_as_the_credentials_whatever_the_servers_word(status: int, code: str, message: str) -> None:
    assert refuses_keys(code=code, status=status, message=message)
    error = server_error(PLACE, "listing", code=code, status=status, message=message)
    assert isinstance(error, InvalidStorage)
    assert "correct spec.checkpoints.credentialsSecret" in str(error)
    assert "run the same command again" not in str(error)
    assert message.rstrip(".") in str(error), "the server's own words"


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchBucket", "NoSuchUpload", "404"])
def test_other_things_that_are_missing_are_no_fault_of_the_keys(code: str) -> None:
    assert not refuses_keys(code=code, status=404, message="The specified key does not exist.")


@pytest.mark.parametrize(("status", "code"), [(404, "XAdminUserNotFound"), (403, "AccessDenied"), (401, "Unauthorized")])
def test_keys_that_are_refused_are_read_again(s3: S3Server, proxy: Proxy, status: int, code: str) -> None:
    proxy.faults.append(Fault(match="^PUT", action="refuse", status=status, code=code))
    asked: list[S3Credentials] = []

    def read() -> S3Credentials:
        asked.append(keys(s3) if asked else S3Credentials(access_key=s3.access_key, secret_key=s3.secret_key, session_token=""))
        return asked[-1]

    storage = open_storage("s3://finetune-tests/again", endpoint=proxy.endpoint, credentials=read, limits=QUICK)
    storage.put("a", b"1")
    assert len(asked) == 2
    assert storage.get("a") == b"1"


@pytest.mark.parametrize("path", ["/minio/ui", "/browser/", "/ui"])
def test_an_endpoint_with_a_path_is_named_and_not_the_bucket(s3: S3Server, path: str) -> None:
    """As copied from a browser: the server takes the path's first word for a bucket."""
    place = Place(url="s3://bucket/run", bucket="bucket", endpoint=f"http://host:9000{path}")
    told = str(server_error(place, "listing", code="NoSuchBucket", status=404))
    assert f"spec.checkpoints.endpoint has the path /{path.strip('/')}, which the server takes for a bucket: write http://host:9000" in told
    assert "create it" not in told
    refused(s3_storage(s3, s3.endpoint + path), InvalidStorage, f"has the path /{path.strip('/')}", f"write {s3.endpoint}")


def test_an_endpoint_that_ends_in_the_bucket_is_refused_by_the_check(s3: S3Server) -> None:
    """A write lands at another key of the bucket; it is the listing that fails."""
    with pytest.raises(InvalidStorage, match=f"has the path /{BUCKET}, which the server takes for a bucket: write {s3.endpoint}"):
        check_writable(s3_storage(s3, f"{s3.endpoint}/{BUCKET}"))


def test_an_endpoint_that_ends_in_a_slash_has_no_path(s3: S3Server) -> None:
    check_writable(s3_storage(s3, f"{s3.endpoint}/"))
    place = Place(url="s3://bucket/run", bucket="bucket", endpoint="http://host:9000/")
    assert "create it or correct the name" in str(server_error(place, "listing", code="NoSuchBucket", status=404))


def test_https_at_a_plain_http_server_is_told_as_that(s3: S3Server) -> None:
    storage = s3_storage(s3, endpoint=s3.endpoint.replace("http:", "https:"))
    with pytest.raises(InvalidStorage, match=f"doesn't speak TLS; write {s3.endpoint} as spec.checkpoints.endpoint") as caught:
        check_writable(storage)
    assert "certificate" not in str(caught.value)


def test_a_certificate_of_another_authority_is_still_told_as_that(s3: S3Server, tmp_path: Path) -> None:
    with faulty_proxy(s3.endpoint, *self_signed(tmp_path)) as proxy:
        refused(s3_storage(s3, proxy.endpoint), InvalidStorage, "not trusted (self", "spec.checkpoints.caBundle")


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "ObjectParentIsFile"), (409, "ExistingObjectIsDirectory"), (500, "InternalError")],  # versitygw 1.8.0, s3proxy 4.1.0
)
def test_a_key_below_an_object_that_is_no_folder_is_no_passing_fault(s3: S3Server, proxy: Proxy, status: int, code: str) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    storage.put("model", b"an object")
    proxy.faults.append(Fault(match="^PUT .*model/config", action="refuse", status=status, code=code, times=99))
    prefix = storage.url.rpartition("/")[2]
    for write in (storage.put, storage.put_if_absent):
        with pytest.raises(InvalidStorage, match=rf"\({status} {code}\): .* can't keep an object '{prefix}/model' beside objects below"):
            write("model/config.json", b"{}")
    proxy.faults[0].match = "^(PUT|POST) .*uploadId"
    with pytest.raises(InvalidStorage, match="can't keep an object"):
        storage.put_stream("model/weights", [bytes(8 * 2**20)] * 2)


def test_an_object_where_there_is_a_folder_is_no_passing_fault(s3: S3Server, proxy: Proxy) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    storage.put("model/config.json", b"{}")
    proxy.faults.append(Fault(match="^PUT", action="refuse", status=409, code="ExistingObjectIsDirectory", times=99))
    with pytest.raises(InvalidStorage, match=r"can't keep an object '.*/model' beside objects below .*/model/; delete it, or name another"):
        storage.put("model", b"1")


@pytest.mark.parametrize(("status", "code"), [(409, "OperationAborted"), (500, "InternalError"), (503, "SlowDown")])
def test_a_passing_fault_stays_one(s3: S3Server, proxy: Proxy, status: int, code: str) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    proxy.faults.append(Fault(match="^PUT", action="refuse", status=status, code=code, times=99))
    with pytest.raises(StorageFailed, match=f"{status} {code}: the proxy says so; .*run the same command again"):
        storage.put("model/config.json", b"{}")


class Shuffled(MemoryStorage):
    """Lists in another order each time, as servers do that go by folder (SeaweedFS) or by UTF-16 (s3proxy)."""

    def list(self, prefix: str = "") -> Listing:
        return random.sample(found := super().list(prefix), len(found))

    def versions(self, prefix: str = "") -> Versions:
        return random.sample(found := [(key, size, str(hash(self.objects[key]))) for key, size in super().list(prefix)], len(found))


@pytest.mark.parametrize("seed", range(5))
def test_claims_and_checkpoints_depend_on_no_order_of_a_listing(seed: int) -> None:
    random.seed(seed)
    storage = Shuffled()
    for attempt in range(1, 12):
        one = store(storage).claimed()
        assert one.claim.number == attempt
        for step in (9, 10, 100, 1000):
            save(one, step + attempt * 10000)
        one.prune(keep=2)
        assert [checkpoint.step for checkpoint in one.candidates()] == [1000 + attempt * 10000, 100 + attempt * 10000]
    assert resumed_step(storage) == 111000
    assert [key for key, _ in sorted(storage.list("claims/"))][-1] == "claims/000011.json"
    claims.check_owner(storage, identity="a" * 64, job="fennel")


def test_names_in_any_alphabet_are_listed_in_one_order(s3: S3Server) -> None:
    """By code point, whatever the server's order is: letters beyond U+FFFF come before U+FF21 in UTF-16."""
    storage = s3_storage(s3)
    names = ["a-b", "a/b", "a0", "\uff21", "\U0001f33f", "\u00e4", "z"]
    for name in names:
        storage.put(name, b"1")
    assert [key for key, _ in storage.list()] == sorted(names)
