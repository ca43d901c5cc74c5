"""Google Cloud Storage and Azure Blob Storage, by real emulators: claims, wrong settings and what only one of them can get wrong.

The cases of every storage are in test_s3.py; both pass them.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.stores.azure_account import ACCOUNT, KEY
from tests.stores.servers import BUCKET, Store
from tests.trainer.faulty_proxy import Fault, Proxy, faulty_proxy

from finetune_api.errors import InvalidStorage, StorageFailed
from finetune_trainer.storage.azure import AzureCredentials, account_of
from finetune_trainer.storage.connection import Limits
from finetune_trainer.storage.gcs import GcsCredentials
from finetune_trainer.storage.places import open_storage
from finetune_trainer.storage.probe import check_readable, check_writable

QUICK = Limits(connect_seconds=10, read_seconds=20, attempts=2)
IMPATIENT = Limits(connect_seconds=1, read_seconds=1, attempts=1)


@pytest.fixture(params=["gcs", "azure"])
def store(request: pytest.FixtureRequest) -> Store:
    one: Store = request.getfixturevalue(request.param)
    return one


@pytest.fixture
def proxy(store: Store) -> Iterator[Proxy]:
    with faulty_proxy(store.endpoint) as one:
        yield one


def test_of_16_writers_at_once_one_wins(store: Store) -> None:
    storage = store.open(limits=QUICK)
    barrier = threading.Barrier(16)

    def create(writer: int, key: str) -> bool:
        barrier.wait()
        return storage.put_if_absent(key, f"writer {writer}".encode())

    for key in ("claims/1", "claims/2", "claims/3", "claims/4"):
        with ThreadPoolExecutor(16) as threads:
            won = list(threads.map(create, range(16), [key] * 16))
        assert won.count(True) == 1
        assert storage.get(key) == f"writer {won.index(True)}".encode()


def test_a_missing_bucket_is_named(store: Store) -> None:
    word = "container" if store.scheme == "az" else "bucket"
    storage = store.open("x", bucket="nobody-made-this", limits=QUICK)
    for check in (check_writable, check_readable):
        with pytest.raises(InvalidStorage, match=f"there is no {word} 'nobody-made-this' at .*; create it or correct the name"):
            check(storage)


def test_nobody_at_the_endpoint(store: Store) -> None:
    storage = store.open(endpoint=f"http://127.0.0.1:1/{ACCOUNT}", limits=IMPATIENT)
    with pytest.raises(InvalidStorage, match=r"can't reach http://127\.0\.0\.1:1.*; correct spec\.checkpoints\.endpoint, or start"):
        check_writable(storage)


def test_https_at_a_plain_http_server(store: Store) -> None:
    endpoint = store.endpoint.replace("http:", "https:")
    credentials = store.credentials or GcsCredentials(service_account_key=service_account(store.endpoint))
    storage = store.open(endpoint=endpoint, credentials=lambda: credentials, limits=IMPATIENT)
    if store.scheme == "az":
        with pytest.raises(InvalidStorage, match=f"doesn't speak TLS; write {store.endpoint} as spec.checkpoints.endpoint"):
            check_writable(storage)
    else:  # it asks for a token first, and nobody gives one there
        with pytest.raises(InvalidStorage, match=r"spec\.checkpoints\.storage=gs://.*(can't reach|refuses the credentials)"):
            check_writable(storage)


def service_account(endpoint: str) -> str:
    """The JSON key of an account that Google never made; tokens are asked for at the emulator, which gives none."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({
        "type": "service_account", "client_email": "fennel@pantry.iam.gserviceaccount.com", "private_key_id": "hidden",
        "private_key": key, "token_uri": f"{endpoint}/token",
    })  # fmt: skip


@pytest.mark.parametrize("key", ["no json", "[]", "{}", '{"type": "authorized_user"}'])
def test_a_key_that_is_none_of_a_service_account(gcs: Store, key: str) -> None:
    storage = gcs.open(credentials=lambda: GcsCredentials(service_account_key=key), limits=QUICK)
    with pytest.raises(InvalidStorage, match=r"key can't be used .*spec.checkpoints.credentialsSecret, as GOOGLE_SERVICE_ACCOUNT_KEY"):
        check_writable(storage)


def test_credentials_that_google_refuses(gcs: Store) -> None:
    credentials = GcsCredentials(service_account_key=service_account(gcs.endpoint))
    storage = gcs.open(credentials=lambda: credentials, limits=QUICK)
    with pytest.raises(InvalidStorage, match=r"Google refuses the credentials .*correct spec\.checkpoints\.credentialsSecret") as caught:
        check_writable(storage)
    assert "PRIVATE" not in str(caught.value)
    assert "PRIVATE" not in repr(credentials)


def test_no_credentials_of_google_at_all(gcs: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    storage = gcs.open(endpoint="https://127.0.0.1:1", limits=QUICK)
    with pytest.raises(InvalidStorage, match=r"no credentials; set spec\.checkpoints\.credentialsSecret or GOOGLE_APPLICATION_CREDENTIALS"):
        check_writable(storage)


@pytest.mark.parametrize(
    "wrong",
    [AzureCredentials(account=ACCOUNT, key="d3Jvbmc="), AzureCredentials(account=ACCOUNT, sas_token="?sv=2021-08-06&sig=d3Jvbmc=")],
    ids=["key", "signature"],
)
def test_keys_that_azure_refuses_are_named_and_read_again(azure: Store, wrong: AzureCredentials) -> None:
    with pytest.raises(InvalidStorage, match=r"refuses the access key .*correct spec\.checkpoints\.credentialsSecret") as caught:
        check_writable(azure.open(credentials=lambda: wrong, limits=QUICK))
    assert "d3Jvbmc" not in str(caught.value) + repr(wrong)
    asked: list[AzureCredentials] = []

    def read() -> AzureCredentials:
        asked.append(AzureCredentials(account=ACCOUNT, key=KEY) if asked else wrong)
        return asked[-1]

    storage = azure.open(credentials=read, limits=QUICK)
    storage.put("a", b"1")
    assert len(asked) == 2
    assert storage.get("a") == b"1"


def test_an_azure_key_that_is_no_base64(azure: Store) -> None:
    storage = azure.open(credentials=lambda: AzureCredentials(account=ACCOUNT, key="no base64!"), limits=QUICK)
    with pytest.raises(InvalidStorage, match=r"Invalid Access Key.*correct spec\.checkpoints\.storage or spec\.checkpoints\.credentials"):
        check_writable(storage)


def test_the_azure_account_is_named_by_the_secret_or_the_endpoint(azure: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    check_writable(azure.open(credentials=lambda: AzureCredentials(key=KEY), limits=QUICK))
    assert account_of("https://pantry.blob.core.windows.net/") == "pantry"
    assert account_of("https://storage.example.org") is None
    with pytest.raises(
        InvalidStorage, match=r"no storage account; put AZURE_STORAGE_ACCOUNT_NAME into spec\.checkpoints\.credentialsSecret"
    ):
        check_writable(open_storage(f"az://{BUCKET}/x", endpoint="https://storage.example.org", limits=QUICK))


# Each is over after one time, so that the second try succeeds.
@pytest.mark.parametrize("action", ["refuse", "lose", "cut"])
@pytest.mark.parametrize("size", [100, 40 * 2**20], ids=["small", "large"])
def test_an_upload_survives_a_fault(store: Store, proxy: Proxy, action: str, size: int) -> None:
    where = proxy.endpoint + (f"/{ACCOUNT}" if store.scheme == "az" else "")
    storage = store.open(endpoint=where, limits=Limits(connect_seconds=10, read_seconds=20, attempts=4))
    proxy.faults.append(Fault(match=r"^(PUT|POST) ", action=action, after=1 if size > 100 else 0))  # type: ignore[arg-type]
    data = bytes(range(256)) * (size // 256) + b"end"
    if (store.name, action, size > 100) == ("fake-gcs-server", "lose", True):
        # It appends a part that is sent again, where Google passes over what it has: noticed, and nothing of it stays.
        with pytest.raises(StorageFailed, match=r"writing a failed: The computed .*CRC32C.* did not match.*run the same command again"):
            storage.put_stream("a", [data[:1000], data[1000:]])
        assert storage.list() == []
        return
    assert storage.put_stream("a", [data[:1000], data[1000:]]) == len(data)
    assert proxy.faults[0].seen >= 2
    assert storage.get("a") == data


def test_a_server_without_room_or_out_of_order_is_a_failure(store: Store, proxy: Proxy) -> None:
    where = proxy.endpoint + (f"/{ACCOUNT}" if store.scheme == "az" else "")
    storage = store.open(endpoint=where, limits=IMPATIENT)
    proxy.faults.append(Fault(match=r"^(PUT|POST) ", action="refuse", status=503, code="ServerBusy", times=99))
    with pytest.raises(StorageFailed, match=r"writing a failed: .*run the same command again"):
        storage.put("a", b"1")


def test_the_creator_whose_answer_is_lost_still_knows(store: Store, proxy: Proxy) -> None:
    where = proxy.endpoint + (f"/{ACCOUNT}" if store.scheme == "az" else "")
    storage = store.open(endpoint=where, limits=Limits(connect_seconds=10, read_seconds=20, attempts=4))
    proxy.faults.append(Fault(match=r"^(PUT|POST) ", action="lose"))
    assert storage.put_if_absent("claims/1", b"first")
    assert not storage.put_if_absent("claims/1", b"second")
