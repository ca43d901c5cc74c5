"""A client of botocore, which is in boto3: keys and settings of an S3 server, and what went wrong with a call, in our words."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_api.errors import FineTuneError, InvalidStorage, StorageFailed
from finetune_trainer.files.atomic import Bytes
from finetune_trainer.storage.connection import Connection, Settings, is_loopback
from finetune_trainer.storage.errors import Place, another_server, refuses_keys, server_error, tls_error, unreachable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """Keys of an S3 account. Never printed."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings(Settings[S3Credentials]):
    """The settings of a server, and the bucket's region."""

    region: str | None


class S3Connection(Connection[S3Credentials, "S3Client"]):
    """A client of botocore."""

    settings: S3Settings

    def _connect(self, keys: S3Credentials | None) -> "S3Client":
        import botocore.session
        from botocore.config import Config

        endpoint, region, ca_bundle = self.settings.endpoint, self.settings.region, self.settings.ca_bundle
        config = Config(
            connect_timeout=self.limits.connect_seconds,
            read_timeout=self.limits.read_seconds,
            retries={"mode": "standard", "total_max_attempts": self.limits.attempts},
            max_pool_connections=4 * self.limits.parallel,
            # Bucket names in host names need DNS that an own server rarely has.
            s3={"addressing_style": "path" if endpoint else "auto"},
            # boto3 1.36 began to send checksums that older S3 servers refuse; ours are in the manifest.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Proxies of the environment do not lead back to this machine.
            proxies={} if is_loopback(endpoint) else None,
        )
        session: Any = botocore.session.get_session()  # one a client: a session keeps the keys that it once found
        session.register_component("data_loader", _definitions())
        client: S3Client = session.create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=region or ("us-east-1" if endpoint else None),
            aws_access_key_id=keys.access_key if keys else None,
            aws_secret_access_key=keys.secret_key if keys else None,
            aws_session_token=keys.session_token if keys else None,
            verify=str(ca_bundle) if ca_bundle else None,
            config=config,
        )
        return client

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            status, code, message = answer_of(error)
            if error.operation_name == "HeadObject" and status == 404:  # an answer to HEAD has no body that could say more
                code = "NoSuchKey"
            elif error.operation_name == "HeadObject" and status == 400:
                code = "BadRequest"
            raise server_error(self.place, doing, code=code, status=status, message=message) from error
        except (BotoCoreError, ValueError) as error:  # botocore raises a bare ValueError for an endpoint that is no URL
            raise _client_side_error(self.place, doing, error) from error

    def _is_refusal(self, error: BaseException | None) -> bool:
        """Whether the server refused the keys, or what they may do: others, which were written meanwhile, may do."""
        status, code, message = answer_of(error)
        return status == 403 or refuses_keys(code=code, status=status, message=message)


@functools.cache
def _definitions() -> Any:
    """Botocore's definitions of services: megabytes of JSON, that each client would read anew (0.1 to 0.3 s of processor time)."""
    import botocore.session

    return botocore.session.get_session().get_component("data_loader")


def answer_of(error: BaseException | None) -> tuple[int, str, str]:
    """Status, code and message of the server's answer that botocore raised as an error; (0, "", "") for another error."""
    response: Any = getattr(error, "response", None) or {}
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    details = response.get("Error", {})
    return status, str(details.get("Code", status or "")), str(details.get("Message", ""))


def _client_side_error(place: Place, doing: str, error: Exception) -> FineTuneError:
    """The error for what botocore itself found wrong, before or instead of an answer."""
    from botocore import exceptions, parsers

    fields, where = place.fields, f"{place.fields.storage}={place.url}"
    match error:
        case exceptions.SSLError():
            return tls_error(place, str(error))
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError() | exceptions.CredentialRetrievalError():
            return InvalidStorage(f"{where}: no access key; set {fields.credentials}, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        case exceptions.HTTPClientError() | exceptions.ConnectionError() | exceptions.IncompleteReadError():
            return unreachable(place, doing, type(error).__name__)
        case parsers.ResponseParserError():
            return another_server(place)
        case exceptions.ParamValidationError() | ValueError():
            return InvalidStorage(f"{where}: {doing} failed: {error}; correct {fields.storage} or {fields.endpoint}")
        case _:
            return StorageFailed(f"{where}: {doing} failed: {error}")


def as_body(data: Bytes) -> Any:
    """What boto3 takes as a body: bytes and bytearrays (its types know only the first) as they are, a copy of a memoryview."""
    return bytes(data) if isinstance(data, memoryview) else data
