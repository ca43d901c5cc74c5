"""Storage: one list of cases for directory, S3 and the fake of other tests; then what only one of them can get wrong."""

import errno
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from examples.demo.s3_server import S3Server, remove_sockets, s3_server
from tests.conftest import BUCKET, ROOT, make_bucket
from tests.trainer.faulty_proxy import Fault, Proxy, faulty_proxy
from tests.trainer.memory_storage import MemoryStorage

from finetune_api.errors import FineTuneError, InvalidStorage, StorageFailed
from finetune_trainer.storage.connection import Limits
from finetune_trainer.storage.directory import DirectoryStorage
from finetune_trainer.storage.errors import MissingObject, Place, StorageFields, directory_error, server_error
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.probe import check_readable, check_writable
from finetune_trainer.storage.protocol import Storage
from finetune_trainer.storage.s3_client import S3Credentials

MIB = 2**20
# Two tries: what is tested is that there is an end.
QUICK = Limits(connect_seconds=20, read_seconds=30, attempts=2)


def s3_storage(server: S3Server, endpoint: str | None = None, bucket: str = BUCKET, limits: Limits = QUICK) -> Storage:
    """A fresh prefix of the server, perhaps through a proxy."""
    return open_storage(
        f"s3://{bucket}/{uuid.uuid4().hex}", endpoint=endpoint or server.endpoint, credentials=lambda: keys(server), limits=limits
    )


def keys(server: S3Server) -> S3Credentials:
    return S3Credentials(access_key=server.access_key, secret_key=server.secret_key)


@pytest.fixture(params=["directory", "s3", "memory", "gcs", "azure"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "directory":
        return open_storage("objects", base=tmp_path)
    if request.param == "memory":
        return MemoryStorage()
    if request.param in {"gcs", "azure"}:
        one: Storage = request.getfixturevalue(request.param).open(limits=QUICK)
        return one
    return s3_storage(request.getfixturevalue("s3"))


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with faulty_proxy(s3.endpoint) as one:
        yield one


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 4), (2, 5), (3, None), (5, 100), (10, None), (12, 14), (4, 4), (0, 0)])
def test_a_range_is_a_slice(storage: Storage, start: int, stop: int | None) -> None:
    storage.put("a/b", b"0123456789")
    assert storage.get("a/b", start, stop) == b"0123456789"[start:stop]


def test_put_replaces(storage: Storage) -> None:
    storage.put("a", b"old and longer")
    storage.put("a", bytearray(b"new"))
    assert storage.get("a") == b"new"
    storage.put("a", memoryview(b""))
    assert storage.get("a") == b""


def test_a_missing_object_is_named(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(MissingObject, match="no/such"):
        storage.get("no/such")
    with pytest.raises(MissingObject, match="no/such"):
        storage.get_file("no/such", tmp_path / "copy")
    assert not storage.exists("no/such")
    assert [path for path in tmp_path.iterdir() if path.name != "objects"] == []


@pytest.mark.parametrize("sizes", [[], [0], [5], [3 * MIB] * 7, [20 * MIB, 1], [8 * MIB, 8 * MIB]], ids=str)
def test_a_stream_of_any_blocks_becomes_one_object(storage: Storage, sizes: list[int]) -> None:
    blocks = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    assert storage.put_stream("large", iter(blocks)) == sum(sizes)
    assert storage.get("large") == b"".join(blocks)
    assert storage.list() == [("large", sum(sizes))]


@pytest.mark.parametrize("good_blocks", [0, 1, 5])
def test_a_stream_that_breaks_off_leaves_the_old_object(storage: Storage, good_blocks: int) -> None:
    def blocks() -> Iterator[bytes]:
        for _ in range(good_blocks):
            yield bytes(4 * MIB)
        raise ZeroDivisionError

    storage.put("a", b"old")
    with pytest.raises(ZeroDivisionError):
        storage.put_stream("a", blocks())
    with pytest.raises(ZeroDivisionError):
        storage.put_stream("b", blocks())
    assert storage.list() == [("a", 3)]
    assert storage.get("a") == b"old"


def test_files_come_back(storage: Storage, tmp_path: Path) -> None:
    content = bytes(range(256)) * (17 * MIB // 256) + b"end"
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content)
    storage.put_file("folder/file", source)
    storage.get_file("folder/file", copy)
    assert copy.read_bytes() == content
    storage.put("empty", b"")
    storage.get_file("empty", copy)
    assert copy.read_bytes() == b""


def test_put_if_absent_keeps_the_first(storage: Storage) -> None:
    assert storage.put_if_absent("claims/1", b"first")
    assert not storage.put_if_absent("claims/1", b"second")
    assert storage.put_if_absent("claims/1", b"first"), "the same bytes again: the writer's own, whose answer was lost"
    assert storage.get("claims/1") == b"first"


def test_of_many_writers_one_creates(storage: Storage) -> None:
    barrier = threading.Barrier(8)

    def create(index: int) -> bool:
        barrier.wait()
        return storage.put_if_absent("claims/1", f"writer {index}".encode())

    for _ in range(2):
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(create, range(8)))
        assert won.count(True) == 1
        assert storage.get("claims/1") == f"writer {won.index(True)}".encode()
        storage.delete(["claims/1"])


def test_listing_is_by_prefix_and_sorted(storage: Storage) -> None:
    for key in ("b/2", "b/10", "bc/1", "a", "b/deep/er"):
        storage.put(key, key.encode())
    assert storage.list() == [("a", 1), ("b/10", 4), ("b/2", 3), ("b/deep/er", 9), ("bc/1", 4)]
    assert [key for key, _ in storage.list("b/")] == ["b/10", "b/2", "b/deep/er"]
    assert [key for key, _ in storage.list("b")] == ["b/10", "b/2", "b/deep/er", "bc/1"]
    assert storage.list("nothing/here") == []


def test_more_objects_than_a_page_holds(storage: Storage) -> None:
    names = [f"many/{index:04d}" for index in range(1005)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: storage.put(key, b"x"), names))
    assert [key for key, _ in storage.list("many/")] == names
    storage.delete([*names, "many/not there"])
    assert storage.list() == []


def test_a_version_is_another_one_when_the_content_is(storage: Storage, tmp_path: Path) -> None:
    """Of a whole upload and of one in parts; the object's size is the same, and so are its ends."""
    before = {"small": bytes(100), "large": bytes(20 * MIB)}
    after = {name: data[: len(data) // 2] + b"x" + data[len(data) // 2 + 1 :] for name, data in before.items()}
    for name, data in before.items():
        storage.put_stream(f"m/{name}", [data])
    first = storage.versions("m/")
    assert [(key, size) for key, size, _ in first] == storage.list("m/") == [("m/large", 20 * MIB), ("m/small", 100)]
    assert storage.versions("m/") == first
    for key, size, version in first:
        storage.get_file(key, tmp_path / "copy", version)
        assert (tmp_path / "copy").stat().st_size == size
    for name, data in after.items():
        storage.put_stream(f"m/{name}", [data])
    for (key, size, old), (_, new_size, new) in zip(first, storage.versions("m/"), strict=True):
        assert (new_size, new != old) == (size, True)
        (tmp_path / "copy").unlink()
        with pytest.raises(StorageFailed, match=f"{key} was replaced while it was read; run the same command again"):
            storage.get_file(key, tmp_path / "copy", old)
        assert not (tmp_path / "copy").exists()
        storage.get_file(key, tmp_path / "copy", new)
        assert (tmp_path / "copy").read_bytes() == after[key.removeprefix("m/")]


def test_the_same_upload_again_has_the_same_version_in_s3(s3: S3Server) -> None:
    """A model that was put back is the model of the run."""
    storage = s3_storage(s3)
    for data in (b"one", b"other", b"one"):
        storage.put_stream("a", [data, bytes(20 * MIB)])
        storage.put("b", data)
        if data == b"one":
            versions = storage.versions()
    storage.put("b", b"other")
    assert storage.versions() != versions
    storage.put("b", b"one")
    assert storage.versions() == versions


@pytest.mark.parametrize("key", ["with space", "plus+percent%41", "umlaut-\u00e4", "a=b&c?d#e"])
def test_keys_are_taken_literally(storage: Storage, key: str) -> None:
    storage.put(f"x/{key}", b"1")
    assert storage.list() == [(f"x/{key}", 1)]
    assert storage.get(f"x/{key}") == b"1"
    storage.delete([f"x/{key}"])
    assert not storage.exists(f"x/{key}")


def test_the_check_leaves_nothing(storage: Storage) -> None:
    check_readable(storage)
    check_writable(storage)
    assert storage.list() == []


def test_two_prefixes_do_not_see_each_other(s3: S3Server, tmp_path: Path) -> None:
    for url in (f"s3://{BUCKET}/{uuid.uuid4().hex}", str(tmp_path)):
        one, other = (open_storage(f"{url}/{name}", endpoint=s3.endpoint, credentials=lambda: keys(s3)) for name in ("run", "run2"))
        one.put("a", b"1")
        assert other.list() == []


# --- S3 ---------------------------------------------------------------------------------------------------------------------


def refused(storage: Storage, kind: type[FineTuneError], *words: str) -> None:
    """Writing is refused with this class and these words, without a secret, by the check and by a first write."""
    attempts: list[Callable[[], None]] = [lambda: check_writable(storage), lambda: storage.put("a", b"1")]
    for attempt in attempts:
        with pytest.raises(kind) as caught:
            attempt()
        message = str(caught.value)
        assert storage.url in message
        assert "hidden" not in message
        for word in words:
            assert word in message, message


def with_keys(server: S3Server, access_key: str, secret_key: str) -> Storage:
    given = S3Credentials(access_key=access_key, secret_key=secret_key)
    return open_storage(f"s3://{BUCKET}/x", endpoint=server.endpoint, credentials=lambda: given, limits=QUICK)


def test_wrong_keys(s3: S3Server) -> None:
    refused(with_keys(s3, "AKIAhidden", s3.secret_key), InvalidStorage, "InvalidAccessKeyId", "spec.checkpoints.credentialsSecret")
    refused(with_keys(s3, s3.access_key, "hidden"), InvalidStorage, "SignatureDoesNotMatch", "spec.checkpoints.credentialsSecret")


def test_no_keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    refused(open_storage(f"s3://{BUCKET}/x", endpoint=s3.endpoint, limits=QUICK), InvalidStorage, "no access key", "credentialsSecret")


def test_missing_bucket(s3: S3Server) -> None:
    refused(s3_storage(s3, bucket="nobody-made-this"), InvalidStorage, "no bucket 'nobody-made-this'", "create it or correct the name")


@pytest.mark.parametrize("url", ["s3://", "s3://ab/c", "s3://Capital/c", "gs://ab/c", "az://a--b/c", "az://with.dot/c", "gcs://bucket/c"])
def test_url_that_is_no_storage(url: str) -> None:
    with pytest.raises(InvalidStorage, match=rf"spec.checkpoints.storage={url}: .*use (s3|gs|az)://(bucket|container)/prefix"):
        open_storage(url)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"url": "s3://user:hidden@bucket/x"}, "spec.checkpoints.storage"),
        ({"url": "s3://bucket/x", "endpoint": "https://user:hidden@host"}, "spec.checkpoints.endpoint"),
    ],
)
def test_keys_in_a_url_are_refused_and_not_repeated(settings: dict[str, str], setting: str) -> None:
    with pytest.raises(InvalidStorage, match=f"^{setting} holds a user name or key before '@'; put keys into ") as caught:
        open_storage(**settings)  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_unreachable_is_a_setting_at_first_and_a_failure_later() -> None:
    storage = open_storage(
        f"s3://{BUCKET}/x",
        endpoint="http://127.0.0.1:1",
        credentials=lambda: S3Credentials(access_key="a", secret_key="hidden"),
        limits=QUICK,
    )
    with pytest.raises(InvalidStorage, match=r"can't reach http://127\.0\.0\.1:1; correct spec\.checkpoints\.endpoint"):
        check_writable(storage)
    with pytest.raises(InvalidStorage, match=r"can't reach http://127\.0\.0\.1:1"):
        check_readable(storage)
    with pytest.raises(
        StorageFailed, match=r"writing a failed: no answer from http://127\.0\.0\.1:1 .*run the same command again"
    ) as caught:
        storage.put("a", b"1")
    assert caught.value.reason == "StorageFailed"


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_unusable_ca_bundle(s3: S3Server, tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.crt"
    if content is not None:
        bundle.write_text(content)
    storage = open_storage("s3://bucket/x", endpoint=s3.endpoint, ca_bundle=bundle, limits=QUICK)
    refused(storage, InvalidStorage, "spec.checkpoints.caBundle holds no readable CA certificates", "ca.crt is in PEM format")


def test_plain_http_where_tls_was_said(s3: S3Server) -> None:
    storage = s3_storage(s3, endpoint=s3.endpoint.replace("http:", "https:"))
    refused(storage, InvalidStorage, "doesn't speak TLS", f"write {s3.endpoint} as spec.checkpoints.endpoint")


def test_an_endpoint_that_is_not_s3(s3: S3Server, proxy: Proxy) -> None:
    proxy.faults[:] = [Fault(match=".", action="page", status=404, times=99)]
    refused(s3_storage(s3, proxy.endpoint), InvalidStorage, "does not answer as an S3 server", "correct spec.checkpoints.endpoint")
    with pytest.raises(InvalidStorage, match=r"does not answer as an S3 server"):
        check_readable(s3_storage(s3, proxy.endpoint))


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", InvalidStorage, ["these keys may not", "AccessDenied: the proxy says so", "credentialsSecret"]),
        (404, "XAdminUserNotFound", InvalidStorage, ["refuses the access key (XAdminUserNotFound: the proxy", "credentialsSecret"]),
        (401, "Unauthorized", InvalidStorage, ["refuses the access key (Unauthorized", "credentialsSecret"]),
        (507, "InsufficientStorage", StorageFailed, ["no room", "raise the quota", "saved before is intact"]),
        (403, "QuotaExceeded", StorageFailed, ["no room (QuotaExceeded)"]),
        (403, "RequestTimeTooSkewed", InvalidStorage, ["set the clock"]),
        (400, "AuthorizationHeaderMalformed", InvalidStorage, ["spec.checkpoints.region"]),
        (501, "NotImplemented", InvalidStorage, ["use another S3 server"]),
        (503, "SlowDown", StorageFailed, ["503 SlowDown", "run the same command again"]),
    ],
)
def test_refusals_of_the_server(s3: S3Server, proxy: Proxy, status: int, code: str, kind: type[FineTuneError], words: list[str]) -> None:
    proxy.faults.append(Fault(match="^PUT", action="refuse", status=status, code=code, times=99))
    refused(s3_storage(s3, proxy.endpoint), kind, *words)


def test_no_answer_in_time(s3: S3Server, proxy: Proxy) -> None:
    proxy.faults.append(Fault(match="^PUT", action="hang", times=99))
    limits = Limits(connect_seconds=1, read_seconds=0.3, attempts=2)
    with pytest.raises(StorageFailed, match=r"writing a failed: no answer .*ReadTimeoutError"):
        s3_storage(s3, proxy.endpoint, limits=limits).put("a", b"1")


# Each is over after one time, so that the second try succeeds.
@pytest.mark.parametrize("action", ["refuse", "cut", "lose", "hang"])
@pytest.mark.parametrize("match", [r"^PUT .*partNumber=2", r"^POST .*uploadId", r"^POST .*uploads"])
def test_an_upload_survives_a_fault(s3: S3Server, proxy: Proxy, action: str, match: str) -> None:
    fault = Fault(match=match, action=action)  # type: ignore[arg-type]
    proxy.faults.append(fault)
    # Patience where patience is not what is tested: the machine may be busy.
    limits = Limits(connect_seconds=20, read_seconds=4 if action == "hang" else 30, attempts=4)
    storage = s3_storage(s3, proxy.endpoint, limits=limits)
    assert storage.put_stream("large", (bytes([index]) * 8 * MIB for index in range(3))) == 24 * MIB
    assert fault.seen >= 2
    assert storage.get("large") == b"".join(bytes([index]) * 8 * MIB for index in range(3))


@pytest.mark.parametrize("status", [503, 507])
def test_an_upload_that_fails_leaves_nothing(s3: S3Server, proxy: Proxy, status: int) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    storage.put("large", b"old")
    proxy.faults.append(Fault(match=r"^PUT .*partNumber", action="refuse", status=status, times=99, after=1))
    with pytest.raises(StorageFailed, match="writing large"):
        storage.put_stream("large", [bytes(8 * MIB)] * 4)
    assert storage.get("large") == b"old"
    proxy.faults[:] = [Fault(match=r"^DELETE .*uploadId", action="refuse", times=99)]
    storage.discard_incomplete(lambda key: True)  # would fail on an upload that is still there


def test_what_a_killed_writer_left_is_discarded(s3: S3Server, proxy: Proxy) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    proxy.faults[:] = [
        Fault(match=r"^PUT .*partNumber=2", action="refuse", status=507, times=99),
        Fault(match=r"^DELETE .*uploadId", action="refuse", times=2),
    ]
    with pytest.raises(StorageFailed, match="no room"):
        storage.put_stream("large", [bytes(8 * MIB)] * 3)
    storage.discard_incomplete(lambda key: True)
    assert proxy.faults[1].seen == 3, "the abort that failed twice, and the one that discards"
    storage.discard_incomplete(lambda key: True)
    assert proxy.faults[1].seen == 3


@pytest.mark.parametrize("action", ["truncate", "refuse", "lose"])
def test_a_read_survives_a_fault(s3: S3Server, proxy: Proxy, action: str) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    storage.put("a", bytes(range(200)))
    proxy.faults.append(Fault(match="^GET", action=action))  # type: ignore[arg-type]
    assert storage.get("a", 50, 150) == bytes(range(50, 150))


def test_a_read_that_is_always_cut_off_fails(s3: S3Server, proxy: Proxy) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    storage.put("a", bytes(range(200)))
    proxy.faults.append(Fault(match="^GET", action="truncate", times=99))
    with pytest.raises(StorageFailed, match="reading a failed: no answer"):
        storage.get("a")


def test_the_creator_whose_answer_is_lost_still_knows(s3: S3Server, proxy: Proxy) -> None:
    storage = s3_storage(s3, proxy.endpoint)
    proxy.faults.append(Fault(match="^PUT", action="lose"))
    assert storage.put_if_absent("claims/1", b"first")
    assert not storage.put_if_absent("claims/1", b"second")


def test_tls_with_an_own_ca(s3: S3Server, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with faulty_proxy(s3.endpoint, certificate, key) as proxy:
        assert proxy.endpoint.startswith("https:")
        refused(s3_storage(s3, proxy.endpoint), InvalidStorage, "certificate that is not trusted", "spec.checkpoints.caBundle")
        storage = open_storage(
            f"s3://{BUCKET}/{uuid.uuid4().hex}", endpoint=proxy.endpoint, credentials=lambda: keys(s3), ca_bundle=certificate, limits=QUICK
        )
        check_writable(storage)
        assert storage.put_stream("large", [bytes(8 * MIB)] * 2) == len(storage.get("large"))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for 127.0.0.1, its own CA, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "finetune tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "ca.crt", folder / "tls.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def test_rotated_keys_are_read_again(s3: S3Server) -> None:
    old = S3Credentials(access_key="AKIAOLD", secret_key="hidden")
    asked: list[S3Credentials] = []

    def read() -> S3Credentials:
        asked.append(keys(s3) if asked else old)
        return asked[-1]

    storage = open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", endpoint=s3.endpoint, credentials=read, limits=QUICK)
    assert storage.put_stream("large", [bytes(8 * MIB)] * 3) == 24 * MIB
    assert asked == [old, keys(s3)]
    assert "hidden" not in repr(old)


def test_messages_name_the_callers_fields() -> None:
    place = Place(
        url="s3://b/x", bucket="bbb", endpoint="http://e", fields=StorageFields(credentials="spec.dataset.sources.0.credentialsSecret")
    )
    assert "correct spec.dataset.sources.0.credentialsSecret" in str(server_error(place, "reading", code="InvalidAccessKeyId", status=403))


# --- directory --------------------------------------------------------------------------------------------------------------


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    storage = open_storage("file/below", base=tmp_path)
    with pytest.raises(InvalidStorage, match=r"spec.checkpoints.storage=.*File exists; name a directory that this user may write"):
        check_writable(storage)


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "disk full"), (errno.EDQUOT, "quota"), (errno.EFBIG, "file size")])
def test_no_room_on_the_disk(number: int, word: str) -> None:
    error = directory_error(Place(url="/data"), "writing a", OSError(number, "x"))
    assert isinstance(error, StorageFailed)
    assert word in str(error)
    assert "spec.checkpoints.storage=/data" in str(error)
    assert "spec.checkpoints.keep" in str(error)


# A limit on the size of files stands for a full disk: both end in a short write and an OSError. It holds for a whole process.
_LIMITED = """
import resource, sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from finetune_api.errors import StorageFailed
from finetune_trainer.storage.directory import DirectoryStorage
storage = DirectoryStorage(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    storage.put_stream("a", [bytes(700_000)] * 3)
except StorageFailed as error:
    print(error)
"""


def test_a_write_that_does_not_fit_leaves_the_old_object(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "objects")
    storage.put("a", b"old")
    found = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "objects")],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert "no room (file size limit reached) while writing a" in found.stdout
    assert storage.get("a") == b"old"
    assert [path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()] == ["a"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000_000


def test_incomplete_files_are_invisible_and_can_be_discarded(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)

    def blocks() -> Iterator[bytes]:
        yield b"half"
        assert storage.list() == []
        assert [path.name for path in tmp_path.iterdir()] == [".finetune-incomplete"]
        yield b"whole"

    storage.put_stream("a", blocks())
    (tmp_path / ".finetune-incomplete" / "left by a killed writer").write_bytes(b"x")
    storage.discard_incomplete(lambda key: True)
    storage.discard_incomplete(lambda key: True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_deleting_removes_empty_folders_and_no_others(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    storage.put("a/b/c", b"1")
    storage.put("a/d", b"1")
    storage.delete(["a/b/c"])
    assert sorted(path.name for path in tmp_path.rglob("*") if "incomplete" not in path.name) == ["a", "d"]


# --- the server of demo and tests -------------------------------------------------------------------------------------------


def listening(pid: int) -> list[str]:
    """Addresses that a process listens on, from /proc, as hexadecimal `address:port`."""
    inodes = {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink() and "socket" in str(path.readlink())}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_listens_on_loopback_only(s3: S3Server) -> None:
    addresses = listening(s3.pid)
    assert addresses
    assert [one for one in addresses if not one.startswith("0100007F:")] == []


def test_a_server_started_again_has_its_objects_and_keys(tmp_path: Path) -> None:
    def storage(server: S3Server) -> Storage:
        return open_storage("s3://again", endpoint=server.endpoint, credentials=lambda: keys(server))

    with s3_server(tmp_path) as server:
        make_bucket(server, "again")
        storage(server).put("a", b"kept")
    with s3_server(tmp_path) as server:
        assert storage(server).get("a") == b"kept"
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"port {port} of 127.0.0.1 is taken .*; choose another"), s3_server(tmp_path, port=port):
            pass


_SERVING = """
import os, sys
from pathlib import Path
from examples.demo.s3_server import s3_server
with s3_server(Path(sys.argv[1])) as server:
    print(server.pid, Path(f"/proc/{server.pid}/cmdline").read_text().replace(chr(0), " "), flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_the_server_goes_with_a_killed_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SERVING, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    server = Path(f"/proc/{int(found.stdout.split()[0])}")
    for _ in range(300):
        # Gone, or dead and waiting for whoever inherited it.
        if not server.exists() or "\nState:\tZ" in (server / "status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the server {server.name} still runs 30 s after its parent")
    remove_sockets([int(port) for port in re.findall(r"port\.grpc=(\d+)", found.stdout)])
