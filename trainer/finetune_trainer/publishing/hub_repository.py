"""One repository on the Hub: what of a model it has, one commit with the rest, and a look at what arrived."""

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.errors import InvalidPublication, PublicationFailed
from finetune_api.finetunejob import HubPublication
from finetune_trainer.publishing.changes import Changes, Publication, RemoteFile, changes, check_owner, matches
from finetune_trainer.publishing.metered_file import Meter, MeteredFile, Progress
from finetune_trainer.publishing.model_folder import RECORD_NAME, ExportRecord, FileDigest, digest_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def _total(files: Mapping[str, FileDigest], paths: Iterable[str]) -> int:
    return sum(files[path].size for path in paths)


class HubRepository:
    """One repository on the Hub, as this token sees it. Errors are huggingface_hub's own; `repeated` translates them."""

    def __init__(self, api: "HfApi", hub: HubPublication) -> None:
        self.api = api
        self.hub = hub
        self.created = False
        self.sending = False

    def told(self, said: str) -> str:
        """What a failure left behind."""
        if not self.sending:
            return f"can't be reached: {said}; nothing was sent to it, try again when it answers"
        return f"failed in the middle: {said}; the exported model is kept, publish again with `finetune publish`"

    def check(self) -> None:
        """Refuse a token that may not write to the repository, or to its namespace when there is no repository yet."""
        account = self.api.whoami(cache=True)
        role = account.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise InvalidPublication(f"the token of {account['name']} may only read; give one with write access to {self.hub.repository}")
        if (is_private := self._is_private()) is not None:
            self.api.auth_check(self.hub.repository, write=True)
            self._check_visibility(is_private)
            return
        namespaces = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
        # Of a fine-grained token only the Hub knows what it may do.
        if role == "write" and self.hub.repository.split("/")[0] not in namespaces:
            raise InvalidPublication(
                f"{self.hub.repository} can't be created with the token of {account['name']}; publish under one of: {', '.join(namespaces)}"
            )

    def publish(self, folder: Path, record: ExportRecord, progress: Progress) -> Publication:
        """One try, from the start: it looks at the remote, sends what is missing, commits, and compares."""
        self.sending = True
        self.check()
        if self._is_private() is None:
            self.api.create_repo(self.hub.repository, private=self.hub.private, exist_ok=True)
            self.created = True
            # Somebody else may have made it meanwhile, and an organisation may have rules of its own.
            self._check_visibility(bool(self._is_private()))
        head, inherited = self._branch()
        remote = self._files(head)
        previous = self._record(head) if RECORD_NAME in remote else None
        if not inherited:
            check_owner(self.hub.repository, remote, previous, record.job)
        record_text = record.to_json().encode()
        local = {**record.files, RECORD_NAME: digest_of(record_text)}
        todo = changes(local, remote, previous, inherited=inherited)
        if todo.send or todo.delete:
            self._check_tag(None)
        commit = self._commit(folder, record, record_text, todo, head, progress)
        self._verify(commit, {path: digest for path, digest in local.items() if path not in todo.kept}, todo.delete)
        if self.hub.tag is not None and not self._check_tag(commit):
            self.api.create_tag(self.hub.repository, tag=self.hub.tag, revision=commit, tag_message=self._message(record))
        return Publication(
            repository=self.hub.repository,
            revision=commit,
            url=f"{self.api.endpoint}/{self.hub.repository}" + ("" if self.hub.revision == "main" else f"/tree/{self.hub.revision}"),
            sent=todo.send,
            sent_bytes=_total(local, todo.send),
            deleted=todo.delete,
            kept=todo.kept,
            created=self.created,
        )

    def _is_private(self) -> bool | None:
        """Whether the repository hides from the public; None when there is none."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return bool(self.api.model_info(self.hub.repository).private)
        except RepositoryNotFoundError:
            return None

    def _check_visibility(self, is_private: bool) -> None:
        """Refuse to show the world what was meant to stay private; the other way round nothing is given away."""
        if self.hub.private and not is_private:
            raise InvalidPublication(
                f"{self.hub.repository} is public, and spec.publish.hub.private is true; make the repository private in its settings on "
                "the Hub, publish to another one, or say private: false (`finetune publish`: --public) if the world may have the model"
            )

    def _branch(self) -> tuple[str, bool]:
        """The branch's newest commit, and whether it has none of its own yet. The branch is created when absent."""
        heads = {branch.name: branch.target_commit for branch in self.api.list_repo_refs(self.hub.repository).branches}
        if self.hub.revision not in heads:
            self.api.create_branch(self.hub.repository, branch=self.hub.revision, exist_ok=True)
            heads = {branch.name: branch.target_commit for branch in self.api.list_repo_refs(self.hub.repository).branches}
        if self.hub.revision not in heads:
            raise InvalidPublication(
                f"{self.hub.repository} has no branch {self.hub.revision}, and it can't be created; choose another revision"
            )
        head = heads[self.hub.revision]
        return head, self.hub.revision != "main" and head == heads.get("main")

    def _files(self, revision: str) -> dict[str, RemoteFile]:
        from huggingface_hub.hf_api import RepoFile

        entries = self.api.list_repo_tree(self.hub.repository, recursive=True, revision=revision)
        return {
            entry.path: RemoteFile(size=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None, blob_sha1=entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def _record(self, revision: str) -> ExportRecord | None:
        """Our record at the remote; None when what lies there under its name is something else."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(self.hub.repository, RECORD_NAME, revision=revision, local_dir=folder)
            try:
                return ExportRecord.from_json(Path(path).read_bytes())
            except ValueError:
                return None

    def _commit(self, folder: Path, record: ExportRecord, record_text: bytes, todo: Changes, head: str, progress: Progress) -> str:
        """Send and commit on top of `head`, so that a commit of somebody else in between is noticed; the commit's id."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if not todo.send and not todo.delete:
            return head
        files = [path for path in todo.send if path != RECORD_NAME]
        meter = Meter(total=_total(record.files, files), progress=progress)
        with ExitStack() as opened:
            operations: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in todo.delete]
            for path in files:
                operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path)
                operation.upload_info.sha256 = bytes.fromhex(record.files[path].sha256)
                operation.path_or_fileobj = opened.enter_context(MeteredFile(folder / path, meter))
                operations.append(operation)
            if RECORD_NAME in todo.send:
                operations.append(CommitOperationAdd(path_in_repo=RECORD_NAME, path_or_fileobj=record_text))
            commit = self.api.create_commit(
                self.hub.repository, operations, commit_message=self._message(record), revision=self.hub.revision, parent_commit=head
            )
        meter.finish()
        return commit.oid

    def _message(self, record: ExportRecord) -> str:
        return self.hub.message or f"{record.job}: step {record.step}"

    def _check_tag(self, commit: str | None) -> bool:
        """Whether the tag names `commit` already. Raises InvalidPublication when it names another: tags don't move."""
        tags = {tag.name: tag.target_commit for tag in self.api.list_repo_refs(self.hub.repository).tags}
        if self.hub.tag not in tags:
            return False
        if tags[self.hub.tag] != commit:
            raise InvalidPublication(
                f"{self.hub.repository} has a tag {self.hub.tag} already, at {tags[self.hub.tag][:12]}; "
                "choose another spec.publish.hub.tag, or delete that one on the Hub"
            )
        return True

    def _verify(self, commit: str, expected: Mapping[str, FileDigest], deleted: Iterable[str]) -> None:
        """Compare the commit's files with ours, by size and digest."""
        remote = self._files(commit)
        wrong = [path for path, digest in expected.items() if path not in remote or not matches(digest, remote[path])]
        wrong += [path for path in deleted if path in remote]
        if wrong:
            raise PublicationFailed(
                f"{self.hub.repository} at {commit[:12]} differs from the exported model in {', '.join(sorted(wrong))}; "
                "publish again, and look for a .gitignore or a hook in the repository"
            )
