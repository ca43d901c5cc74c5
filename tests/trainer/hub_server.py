"""A Hub on the loopback: the part of the Hub's HTTP API that huggingface_hub 2.4 uses to publish and to fetch a model.

The real client talks to it over the wire. Git is reduced to what the API shows: a commit is a frozen map of path to file, a
branch names a commit. Large files go through the LFS batch API, basic or multipart, as on the Hub. Nothing here knows our code.

Tokens: `hf_write` may write as user `ann` and in organisation `org`; `hf_read` may only read; `hf_other` belongs to `eve`.
`faults` makes the next matching requests fail; `requests` is what was asked, in order.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".parquet", ".h5")


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    role: Literal["read", "write"]
    organisations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.organisations)


ACCOUNTS = {
    "hf_write": Account("ann", "write", ("org",)),
    "hf_read": Account("ann", "read", ("org",)),
    "hf_other": Account("eve", "write"),
}


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a commit. LFS files are known by the sha256 of their content, others by git's blob sha1."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's id of the blob: of the pointer file where the content is in LFS."""
        data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        data = data if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def as_json(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass(frozen=True, slots=True)
class Commit:
    oid: str
    message: str
    parent: str | None
    files: dict[str, Blob]


@dataclass(slots=True)
class Repository:
    private: bool
    # Anybody sees what is in it; files are for accounts that accepted its licence.
    gated: bool = False
    accepted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        listing = json.dumps([message, parent, len(self.commits), sorted((path, blob.oid) for path, blob in files.items())])
        commit = Commit(hashlib.sha1(listing.encode()).hexdigest(), message, parent, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)


@dataclass(slots=True)
class Fault:
    """Makes the next `times` requests fail whose `METHOD path` matches `pattern`.

    `cut` closes the connection after `after_bytes` of the body; `lost` does the work, then closes instead of answering;
    `status` answers with that code; `hang` holds the answer back until the server closes.
    """

    pattern: str
    kind: Literal["cut", "lost", "status", "hang"]
    times: int = 1
    status: int = 503
    after_bytes: int = 1024


class HubServer:
    """Listens from construction to `close()`, on a free loopback port unless told otherwise."""

    def __init__(self, *, multipart_bytes: int = 1 << 20, page: int = 1000, host: str = "127.0.0.1", port: int = 0) -> None:
        self.multipart_bytes = multipart_bytes
        self.page = page
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.uploaded_bytes = 0
        self.sent_bytes = 0
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def create(self, name: str, files: dict[str, bytes] | None = None, *, private: bool = False) -> Repository:
        """A repository as the Hub makes it: branch main, one commit, a .gitattributes; `files` come in a second commit."""
        repository = Repository(private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
        start = {".gitattributes": Blob(attributes, False)}
        repository.commit("main", "initial commit", start)
        if files:
            repository.commit("main", "Upload", start | {path: Blob(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()})
        self.repositories[name] = repository
        return repository

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.repositories[name].at(revision)
        assert commit is not None
        return {path: blob.content for path, blob in commit.files.items()}

    def asked(self, pattern: str) -> list[str]:
        """The requests so far whose `METHOD path` matches."""
        return [request for request in self.requests if re.search(pattern, request)]

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class ConnectionCut(Exception):
    """The fault asks for the connection to be closed without an answer."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    # Head and body go out apart, and the second would wait 40 ms for the acknowledgement of the first.
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.hub.fault(f"{self.command} {path}")
        try:
            if fault is not None and fault.kind == "cut":
                self.rfile.read(min(fault.after_bytes, int(self.headers.get("Content-Length") or 0)))
                raise ConnectionCut
            self.body = self._read()
            if fault is not None and fault.kind == "status":
                raise Refusal(fault.status, "a fault was asked for")
            if fault is not None and fault.kind == "hang":
                self.hub.closing.wait()
                raise ConnectionCut
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split("|"):
                    with self.hub.lock:
                        result = answer(self, **match.groupdict())
                    break
            else:
                raise Refusal(404, f"no such page: {path}")
            if fault is not None and fault.kind == "lost":
                raise ConnectionCut
            self._answer(200, result)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self._answer(refusal.status, {"error": refusal.message}, headers)
        except (ConnectionCut, ConnectionError):
            # Linger of 0 seconds: the client sees a reset, as when a proxy dies.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def handle(self) -> None:
        # Clients that go away in the middle are part of the tests.
        try:
            super().handle()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True

    def _read(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, status: int, result: object, headers: dict[str, str] | None = None) -> None:
        data = result if isinstance(result, bytes) else json.dumps(result).encode()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and status == 200 and isinstance(result, bytes):
            status, start, stop = 206, int(asked[1]), min(int(asked[2]) + 1, len(data))
            headers = {**(headers or {}), "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            data = data[start:stop]
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **getattr(self, "extra", {}), **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.extra: dict[str, str] = {}
        if self.command != "HEAD":
            self.hub.sent_bytes += len(data)
            self.wfile.write(data)

    # Who asks

    @property
    def account(self) -> Account | None:
        authorization = self.headers.get("Authorization", "")
        if not authorization:
            return None
        account = ACCOUNTS.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account

    def repository(self, name: str, *, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        namespace = name.split("/")[0]
        visible = repository is not None and (not repository.private or (self.account is not None and self.account.owns(namespace)))
        if repository is None or not visible:
            raise Refusal(401 if self.account is None else 404, "Repository not found", "RepoNotFound")
        if write and (self.account is None or self.account.role != "write" or not self.account.owns(namespace)):
            raise Refusal(403, f"You don't have write access to {name}")
        return repository

    def commit_at(self, name: str, revision: str) -> Commit:
        commit = self.repository(name).at(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # What is asked

    def whoami(self) -> object:
        account = self.account
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        organisations = [{"name": name, "type": "org", "roleInOrg": account.role} for name in account.organisations]
        token = {"displayName": "test", "role": account.role}
        return {"type": "user", "name": account.name, "orgs": organisations, "auth": {"type": "access_token", "accessToken": token}}

    def create(self) -> object:
        asked = json.loads(self.body)
        account = self.account
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        namespace = asked.get("organization") or account.name
        name = f"{namespace}/{asked['name']}"
        if account.role != "write" or not account.owns(namespace):
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        if name in self.hub.repositories:
            raise Refusal(409, "You already created this model repo")
        self.hub.create(name, private=asked.get("visibility") == "private")
        return {"url": f"{self.hub.url}/{name}", "name": name}

    def info(self, name: str, revision: str = "main") -> object:
        commit = self.commit_at(name, revision)
        siblings = [{"rfilename": path, "size": len(blob.content)} for path, blob in sorted(commit.files.items())]
        return {"_id": name, "id": name, "sha": commit.oid, "private": self.repository(name).private, "tags": [], "siblings": siblings}

    def refs(self, name: str) -> object:
        branches = self.repository(name).branches.items()
        named = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid} for branch, oid in branches]
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in self.repository(name).tags.items()]
        return {"branches": named, "tags": tags, "converts": []}

    def may_read(self, name: str) -> object:
        return bool(self.repository(name))

    def may_write(self, name: str) -> object:
        return bool(self.repository(name, write=True))

    def branch(self, name: str, branch: str) -> object:
        repository = self.repository(name, write=True)
        if branch.startswith("refs/"):
            raise Refusal(400, f"Invalid reference for a branch: {branch}")
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = self.commit_at(name, json.loads(self.body or b"{}").get("startingPoint", "main")).oid
        return {}

    def tag(self, name: str, revision: str) -> object:
        repository = self.repository(name, write=True)
        asked = json.loads(self.body)["tag"]
        if asked in repository.tags:
            raise Refusal(409, "Tag reference exists already")
        repository.tags[asked] = self.commit_at(name, revision).oid
        return {}

    def tree(self, name: str, revision: str) -> object:
        files = sorted(self.commit_at(name, revision).files.items())
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        if start + self.hub.page < len(files):
            following = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + self.hub.page}"
            self.extra = {"Link": f'<{following}>; rel="next"'}
        return [blob.as_json(path) for path, blob in files[start : start + self.hub.page]]

    def paths_info(self, name: str, revision: str) -> object:
        files = self.commit_at(name, revision).files
        paths = parse_qs(self.body.decode())["paths"]
        return [files[path].as_json(path) for path in paths if path in files]

    def validate_yaml(self) -> object:
        content = json.loads(self.body)["content"]
        if content.startswith("---") and content.count("\n---") < 1:
            raise Refusal(400, "YAML metadata has no end")
        return {"errors": [], "warnings": []}

    def preupload(self, name: str, revision: str) -> object:
        files = self.commit_at(name, revision).files
        self.repository(name, write=True)

        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            large = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] > 10_000_000
            blob = files.get(asked["path"])
            oid = {"oid": blob.sha256 if blob.lfs else blob.oid} if blob else {}
            return {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **oid}

        return {"files": [answer(asked) for asked in json.loads(self.body)["files"]]}

    def lfs_batch(self, name: str) -> object:
        repository = self.repository(name, write=True)

        def answer(oid: str, size: int) -> dict[str, Any]:
            if oid in repository.large:
                return {"oid": oid, "size": size}
            header = {}
            href = f"{self.hub.url}/lfs/{name}/{oid}"
            if size > self.hub.multipart_bytes:
                num_parts = -(-size // self.hub.multipart_bytes)
                header = {"chunk_size": str(self.hub.multipart_bytes)}
                header |= {f"{part:05d}": f"{href}/{part}" for part in range(1, num_parts + 1)}
                href += "/complete"
            verify = {"href": f"{self.hub.url}/lfs/{name}/{oid}/verify"}
            return {"oid": oid, "size": size, "actions": {"upload": {"href": href, "header": header}, "verify": verify}}

        asked = json.loads(self.body)["objects"]
        return {"transfer": "basic", "objects": [answer(entry["oid"], entry["size"]) for entry in asked]}

    def _store(self, name: str, oid: str, data: bytes) -> object:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "the content does not match its oid")
        self.hub.repositories[name].large[oid] = data
        return {}

    def lfs_put(self, name: str, oid: str) -> object:
        self.hub.uploaded_bytes += len(self.body)
        return self._store(name, oid, self.body)

    def lfs_part(self, name: str, oid: str, part: str) -> object:
        self.hub.uploaded_bytes += len(self.body)
        self.hub.parts[oid, int(part)] = self.body
        self.extra = {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}
        return {}

    def lfs_complete(self, name: str, oid: str) -> object:
        numbers = [part["partNumber"] for part in json.loads(self.body)["parts"]]
        return self._store(name, oid, b"".join(self.hub.parts.pop((oid, number)) for number in numbers))

    def lfs_verify(self, name: str, oid: str) -> object:
        if len(self.repository(name, write=True).large.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Refusal(400, "size mismatch")
        return {}

    def make_commit(self, name: str, revision: str) -> object:
        repository = self.repository(name, write=True)
        if revision not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header = lines[0]["value"]
        if header.get("parentCommit", repository.branches[revision]) != repository.branches[revision]:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.commit_at(name, revision).files)
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                files[path] = Blob(base64.b64decode(line["value"]["content"]), False)
            elif line["key"] == "lfsFile":
                if line["value"]["oid"] not in repository.large:
                    raise Refusal(400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}")
                files[path] = Blob(repository.large[line["value"]["oid"]], True)
            elif line["key"] == "deletedFile":
                if path not in files:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
                del files[path]
        commit = repository.commit(revision, header["summary"], files)
        return {"success": True, "commitOid": commit.oid, "commitUrl": f"{self.hub.url}/{name}/commit/{commit.oid}"}

    def resolve(self, name: str, revision: str, path: str) -> object:
        commit, repository, account = self.commit_at(name, revision), self.repository(name), self.account
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        if repository.gated and (account is None or account.name not in repository.accepted):
            raise Refusal(401 if account is None else 403, f"Access to model {name} is restricted.", "GatedRepo")
        blob = commit.files[path]
        etag = blob.sha256 if blob.lfs else blob.oid
        self.extra = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid, "Content-Type": "application/octet-stream"}
        if blob.lfs:
            self.extra |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(blob.content))}
        return blob.content


NAME, REVISION, OID = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>.+)", r"(?P<oid>[0-9a-f]{64})"
MODEL = rf"/api/models/{NAME}"
ROUTES: list[tuple[str, str, Callable[..., object]]] = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", rf"{MODEL}/refs", _Handler.refs),
    ("GET", rf"{MODEL}/auth-check", _Handler.may_read),
    ("GET", rf"{MODEL}/auth-check/write", _Handler.may_write),
    ("GET", rf"{MODEL}/tree/{REVISION}", _Handler.tree),
    ("GET", rf"{MODEL}/revision/{REVISION}", _Handler.info),
    ("GET", MODEL, _Handler.info),
    ("POST", rf"{MODEL}/branch/(?P<branch>.+)", _Handler.branch),
    ("POST", rf"{MODEL}/tag/{REVISION}", _Handler.tag),
    ("POST", rf"{MODEL}/paths-info/{REVISION}", _Handler.paths_info),
    ("POST", rf"{MODEL}/preupload/{REVISION}", _Handler.preupload),
    ("POST", rf"{MODEL}/commit/{REVISION}", _Handler.make_commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", rf"/lfs/{NAME}/{OID}", _Handler.lfs_put),
    ("PUT", rf"/lfs/{NAME}/{OID}/(?P<part>\d+)", _Handler.lfs_part),
    ("POST", rf"/lfs/{NAME}/{OID}/complete", _Handler.lfs_complete),
    ("POST", rf"/lfs/{NAME}/{OID}/verify", _Handler.lfs_verify),
    ("GET|HEAD", rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
