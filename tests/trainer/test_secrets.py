"""Secrets: files before the environment, read anew each time, and never shown."""

import traceback
from pathlib import Path

import pytest

from finetune_api.errors import InvalidSpec
from finetune_api.finetunejob import SecretKey, SecretName
from finetune_trainer.secrets import Secrets

HUB = SecretKey(name="hub")
S3 = SecretName(name="s3")
FIELD = "spec.dataset.sources.0.tokenSecret"


def write(folder: Path, name: str, key: str, value: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / key).write_text(value)


def test_a_file_wins_over_the_environment_and_loses_its_newline(tmp_path: Path) -> None:
    write(tmp_path, "hub", "token", "from-file\n")
    secrets = Secrets({"FINETUNE_SECRETS": str(tmp_path), "HF_TOKEN": "from-environment"})
    assert secrets.hub_token(HUB, FIELD) == "from-file"


def test_files_are_read_anew_because_kubernetes_renews_them(tmp_path: Path) -> None:
    secrets = Secrets({"FINETUNE_SECRETS": str(tmp_path)})
    write(tmp_path, "hub", "token", "old")
    assert secrets.hub_token(HUB, FIELD) == "old"
    write(tmp_path, "hub", "token", "new")
    assert secrets.hub_token(HUB, FIELD) == "new"


def test_the_environment_is_used_without_a_file(tmp_path: Path) -> None:
    secrets = Secrets({"FINETUNE_SECRETS": str(tmp_path), "HF_TOKEN": "from-environment"})
    assert secrets.hub_token(HUB, FIELD) == "from-environment"


def test_nothing_named_and_nothing_set_means_no_token() -> None:
    secrets = Secrets({})
    assert secrets.hub_token(None, FIELD) is None
    assert secrets.storage_credentials("s3://bucket", None, "spec.checkpoints.credentialsSecret") is None
    assert Secrets({"HF_TOKEN": "t"}).hub_token(None, FIELD) == "t"


def test_the_users_login_is_found_for_data_models_and_publications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One way to find a token: the secret's file, HF_TOKEN, then what `hf auth login` left, with a secret named and without."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("FINETUNE_SECRETS", str(tmp_path))
    login = tmp_path / "login"
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(login))
    assert Secrets().hub_token(None, FIELD) is None
    with pytest.raises(InvalidSpec, match=r"set HF_TOKEN, or write the value to that file, or log in with `hf auth login`"):
        Secrets().hub_token(HUB, FIELD)
    login.write_text("hf_login")
    assert Secrets().hub_token(None, FIELD) == Secrets().hub_token(HUB, FIELD) == "hf_login"
    assert Secrets({}).hub_token(None, FIELD) is None, "an environment of its own has no login"
    monkeypatch.setenv("HF_TOKEN", "hf_variable")
    assert Secrets().hub_token(None, FIELD) == Secrets().hub_token(HUB, FIELD) == "hf_variable"
    write(tmp_path, "hub", "token", "hf_file")
    assert (Secrets().hub_token(None, FIELD), Secrets().hub_token(HUB, FIELD)) == ("hf_variable", "hf_file")


def test_a_missing_secret_names_the_field_and_both_places(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Secrets({"FINETUNE_SECRETS": str(tmp_path)}).hub_token(HUB, FIELD)
    for part in (FIELD, "'hub'", str(tmp_path / "hub" / "token"), "HF_TOKEN"):
        assert part in str(caught.value)


def test_a_missing_secret_says_when_the_folder_is_not_set() -> None:
    with pytest.raises(InvalidSpec, match="FINETUNE_SECRETS is not set"):
        Secrets({}).hub_token(HUB, FIELD)


def test_s3_credentials_with_and_without_a_session(tmp_path: Path) -> None:
    secrets = Secrets({"FINETUNE_SECRETS": str(tmp_path)})
    write(tmp_path, "s3", "AWS_ACCESS_KEY_ID", "id")
    write(tmp_path, "s3", "AWS_SECRET_ACCESS_KEY", "key")
    found = secrets.storage_credentials("s3://bucket", S3, "spec.checkpoints.credentialsSecret")
    assert found is not None
    assert (found.access_key, found.secret_key, found.session_token) == ("id", "key", None)
    write(tmp_path, "s3", "AWS_SESSION_TOKEN", "session")
    renewed = secrets.storage_credentials("s3://bucket", S3, "spec.checkpoints.credentialsSecret")
    assert renewed is not None
    assert renewed.session_token == "session"


def test_a_session_token_of_the_environment_does_not_join_keys_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, "s3", "AWS_ACCESS_KEY_ID", "id")
    write(tmp_path, "s3", "AWS_SECRET_ACCESS_KEY", "key")
    found = Secrets({"FINETUNE_SECRETS": str(tmp_path), "AWS_SESSION_TOKEN": "of-another-account"}).storage_credentials(
        "s3://bucket", S3, "field"
    )
    assert found is not None
    assert found.session_token is None


def test_half_a_pair_of_keys_is_a_missing_secret(tmp_path: Path) -> None:
    write(tmp_path, "s3", "AWS_ACCESS_KEY_ID", "id")
    with pytest.raises(InvalidSpec, match="AWS_SECRET_ACCESS_KEY"):
        Secrets({"FINETUNE_SECRETS": str(tmp_path)}).storage_credentials("s3://bucket", S3, "spec.checkpoints.credentialsSecret")


def test_a_key_can_not_lead_out_of_its_secret(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (tmp_path / "private").write_text("private text")
    with pytest.raises(InvalidSpec):
        Secrets({"FINETUNE_SECRETS": str(folder)}).hub_token(SecretKey.model_construct(name="hub", key="../../private"), FIELD)


def test_no_value_is_ever_shown(tmp_path: Path) -> None:
    write(tmp_path, "s3", "AWS_ACCESS_KEY_ID", "very-private")
    secrets = Secrets({"FINETUNE_SECRETS": str(tmp_path), "HF_TOKEN": "very-private"})
    assert "very-private" not in f"{secrets!r} {secrets} {Secrets({'HF_TOKEN': 'very-private'})!r}"
    with pytest.raises(InvalidSpec) as caught:
        secrets.storage_credentials("s3://bucket", S3, "field")
    assert "very-private" not in "".join(traceback.format_exception(caught.value))
