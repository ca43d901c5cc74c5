"""Named secrets, from files first and the environment second; a token for the Hub also from the user's login.

In: a secret's name from the FineTuneJob. Out: its value, or InvalidSpec that names the field and the places that were looked
at. Pods get Secrets as files under `$FINETUNE_SECRETS`; they are read anew each time, because Kubernetes renews them in place.
Values are never kept here, so no repr, log line or traceback of this object can show one.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from finetune_api.errors import InvalidSpec, Problem
from finetune_api.finetunejob import NamedVolume, SecretKey, SecretName
from finetune_api.keys import SECRETS_FOLDER_ENV
from finetune_trainer.storage.azure import AzureCredentials
from finetune_trainer.storage.gcs import GcsCredentials
from finetune_trainer.storage.places import Credentials
from finetune_trainer.storage.s3_client import S3Credentials

HUB_TOKEN = "HF_TOKEN"
# What to do where the Hub wants to know who asks: it says the places of `Secrets.hub_token`.
LOG_IN = "set {field} or HF_TOKEN to a token that may read it, or log in with `hf auth login`"
# Keys of a Secret, and variables of the environment. Where there is a choice, the libraries' own names.
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
GCS_KEY = "GOOGLE_SERVICE_ACCOUNT_KEY"
# Of an OpenAI-compatible endpoint: a variable of the environment.
ENDPOINT_KEY = "OPENAI_API_KEY"
# A shorter value is a user's or a bucket's name, or would be found by trying.
SHORTEST_SECRET = 8
AZURE_KEYS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")


class Secrets:
    """Where secrets are looked for; nothing is read before it is asked for."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: in place of this process's own. The user's login belongs to the process's own only."""
        self._environment = os.environ if environment is None else environment
        self._has_login = environment is None

    def __repr__(self) -> str:
        return f"Secrets(folder={self._environment.get(SECRETS_FOLDER_ENV)!r})"

    def hub_token(self, secret: SecretKey | None, field: str) -> str | None:
        """The token of `field` for data, models and publications alike: the secret's file, else HF_TOKEN, else that of `hf auth login`.

        None where there is none and no secret is named; InvalidSpec where one is.
        """
        found = (secret and self._file(secret.name, secret.key)) or self._environment.get(HUB_TOKEN) or self._login()
        if not found and secret is not None:
            problem = self._missing(secret.name, secret.key, HUB_TOKEN, field)
            raise InvalidSpec([replace(problem, remedy=f"{problem.remedy}, or log in with `hf auth login`")])
        return found or None

    def _login(self) -> str | None:
        """The library's own answer: it knows where the login is kept, and renews it."""
        if not self._has_login:
            return None
        from huggingface_hub import get_token

        return get_token()

    def endpoint_key(self, secret: SecretKey | None, field: str, *, is_needed: bool) -> str:
        """The key of `field` for an endpoint: the secret's file, else OPENAI_API_KEY, else none, which is the empty text.

        Raises InvalidSpec where a secret is named, or a key `is_needed`, and there is none.
        """
        if secret is not None:
            return self.value(secret.name, secret.key, ENDPOINT_KEY, field)
        found = self._environment.get(ENDPOINT_KEY, "").strip()
        if is_needed and not found:
            raise InvalidSpec([Problem(field, f"no key is named, and {ENDPOINT_KEY} is not set", "set one of them to the endpoint's key")])
        return found

    def storage_credentials(self, url: str, secret: SecretName | None, field: str) -> Credentials | None:
        """The keys of `field` for the storage at `url`; without a secret None: the library's own chain decides.

        That is the environment, a profile, or the pod's identity. Raises InvalidSpec when the secret holds no keys for such a place.
        """
        if secret is None:
            return None
        if url.startswith("gs://"):
            return GcsCredentials(service_account_key=self.value(secret.name, GCS_KEY, GCS_KEY, field))
        return self._azure(secret.name, field) if url.startswith("az://") else self._s3(secret.name, field)

    def _s3(self, name: str, field: str) -> S3Credentials:
        access_key, secret_key, session_token = self._together(name, S3_KEYS)
        if access_key is None or secret_key is None:
            missing = S3_KEYS[1] if access_key else S3_KEYS[0]
            raise InvalidSpec([self._missing(name, missing, missing, field)])
        return S3Credentials(access_key=access_key, secret_key=secret_key, session_token=session_token)

    def _azure(self, name: str, field: str) -> AzureCredentials:
        """The account may be named by the endpoint; with a name alone the pod's identity is asked."""
        account, key, sas_token = self._together(name, AZURE_KEYS)
        if not (account or key or sas_token):
            raise InvalidSpec([self._missing(name, AZURE_KEYS[0], AZURE_KEYS[0], field)])
        return AzureCredentials(account=account, key=key, sas_token=sas_token)

    def _together(self, name: str, keys: tuple[str, ...]) -> list[str | None]:
        """Values of keys from one place: a session token of the environment does not belong to keys of a file."""
        found = [self._file(name, key) for key in keys]
        return found if any(found) else [self._environment.get(key) or None for key in keys]

    def masked(self, text: bytes) -> bytes:
        """The text with every secret that is mounted, and the user's keys of the environment, replaced by ***."""
        for value in self._known():
            text = text.replace(value, b"***")
        return text

    def _known(self) -> list[bytes]:
        """Values that nobody should read, the longest first; short ones are words that may stand anywhere."""
        folder = self._environment.get(SECRETS_FOLDER_ENV)
        names = (*S3_KEYS[1:], *AZURE_KEYS[1:], GCS_KEY, HUB_TOKEN, ENDPOINT_KEY)
        found = {self._environment[name].encode() for name in names if self._environment.get(name)}
        for path in Path(folder).glob("*/*") if folder else ():
            if path.name != "ca.crt" and (value := self._file(path.parent.name, path.name)):
                found.update(part.encode() for part in value.splitlines())
        return sorted((value for value in found if len(value) >= SHORTEST_SECRET), key=len, reverse=True)

    def ca_bundle(self, bundle: NamedVolume | None, field: str) -> Path | None:
        """The file `ca.crt` of `field`, in the same folder as secrets. Raises InvalidSpec when there is none."""
        if bundle is None:
            return None
        path = self._path(bundle.name, "ca.crt")
        if path is None or not path.is_file():
            wanted = path or f"${SECRETS_FOLDER_ENV}/{bundle.name}/ca.crt"
            raise InvalidSpec([Problem(field, f"no file {wanted}", f"put ca.crt there and set {SECRETS_FOLDER_ENV}")])
        return path

    def value(self, name: str, key: str, variable: str, field: str) -> str:
        """The value of a secret that must be there. Raises InvalidSpec."""
        found = self._file(name, key) or self._environment.get(variable)
        if not found:
            raise InvalidSpec([self._missing(name, key, variable, field)])
        return found

    def _file(self, name: str, key: str) -> str | None:
        path = self._path(name, key)
        try:
            # Editors and `kubectl create secret --from-file` leave a newline at the end.
            return (path.read_text(encoding="utf-8").strip() or None) if path else None
        except (OSError, UnicodeDecodeError):
            return None

    def _path(self, name: str, key: str) -> Path | None:
        folder = self._environment.get(SECRETS_FOLDER_ENV)
        # A key is free text in the spec: it must not lead out of the secret's own folder.
        return Path(folder, name, key) if folder and Path(key).name == key else None

    def _missing(self, name: str, key: str, variable: str, field: str) -> Problem:
        file = self._path(name, key) or f"${SECRETS_FOLDER_ENV}/{name}/{key} ({SECRETS_FOLDER_ENV} is not set)"
        return Problem(
            field,
            f"secret {name!r} has no value for {key!r}: neither the file {file} nor the environment variable {variable} holds one",
            f"set {variable}, or write the value to that file",
        )
