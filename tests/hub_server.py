# SPDX-License-Identifier: Apache-2.0
"""A small Hub on this machine, for tests of uploads and downloads: what `huggingface_hub` asks for, in memory.

It knows repositories of all kinds, commits, LFS objects on another host name (as the real Hub has them), and one
token. It does not know permissions, Xet, pull requests, or the checks of cards.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

TOKEN = "hf_" + "t" * 8  # too short to be a real one
LFS_SUFFIXES = (".safetensors", ".mp4")
REPO_API = re.compile(
    r"/api/(model|dataset|space)s/([^/]+/[^/]+?)(?:/(preupload|commit|tree|revision|paths-info)/([^/]+)/?(.*))?"
)
RESOLVE = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
LFS_BATCH = re.compile(r"/(?:\w+s/)?[^/]+/[^/]+\.git/info/lfs/objects/batch")
LFS_OBJECT = re.compile(r"/_lfs/(\w{64})(/verify)?")

Key = tuple[str, str]  # kind, id


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit: its bytes, and its SHA-256 if it is an LFS object."""

    data: bytes
    lfs: str | None = None

    @property
    def oid(self) -> str:
        return self.lfs or git_oid(self.data)


@dataclass
class Repository:
    """All commits of a repository, the newest last: their names and files."""

    private: bool
    settings: dict[str, Any]
    commits: list[tuple[str, dict[str, StoredFile]]] = field(default_factory=list)

    def add(self, files: dict[str, StoredFile]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str | None) -> tuple[str, dict[str, StoredFile]]:
        return next(c for c in reversed(self.commits) if revision in (None, "main", c[0]))

    @property
    def files(self) -> dict[str, StoredFile]:
        return self.at(None)[1]


class HubServer:
    """The server; a context manager. `url` is what `HF_ENDPOINT` has to be.

    Attributes:
        repositories: by kind and id.
        log: method, path, and whether the request carried a token.
        hold: called with the hash of an LFS object before it is stored; it may wait, as a slow network would.
    """

    def __init__(self) -> None:
        self.repositories: dict[Key, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[tuple[str, str, bool]] = []
        self.hold: Callable[[str], None] = lambda oid: None
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def requests(self, method: str, pattern: str) -> list[str]:
        """Paths of the requests of this method that match."""
        return [path for used, path, _ in self.log if used == method and re.search(pattern, path)]

    def _handler(hub) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                return  # the test looks at `HubServer.log`

            def reply(self, code: int, body: Any = b"", **headers: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(code)
                for name, value in {"Content-Length": len(data), **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def handle_any(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
                hub.log.append((self.command, path, "Authorization" in self.headers))
                try:
                    hub._route(self, path, data)
                except (KeyError, StopIteration):
                    self.reply(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

            do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

        return Handler

    def _route(self, request: Any, path: str, data: bytes) -> None:
        known = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if request.command == "POST" and not known:
            request.reply(401, {"error": "Invalid username or password."})
        elif path == "/api/whoami-v2":
            request.reply(200 if known else 401, {"type": "user", "name": "tester", "orgs": []})
        elif path == "/api/validate-yaml":
            request.reply(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(request, json.loads(data))
        elif match := LFS_OBJECT.fullmatch(path):
            self._lfs_object(request, match[1], data)
        elif LFS_BATCH.fullmatch(path):
            self._lfs_batch(request, json.loads(data)["objects"])
        elif match := REPO_API.fullmatch(path):
            self._repository(request, (match[1], match[2]), match[3], match[4], match[5] or "", data, known)
        elif match := RESOLVE.fullmatch(path):
            self._resolve(request, (match[1] or "model", match[2]), match[3], match[4], known)
        else:
            request.reply(404, {"error": "no route"})

    def _create(self, request: Any, body: dict[str, Any]) -> None:
        key = (body.get("type") or "model", f"{body.get('organization') or 'tester'}/{body['name']}")
        address = f"{self.url}/{'' if key[0] == 'model' else key[0] + 's/'}{key[1]}"
        if key in self.repositories:
            request.reply(409, {"error": "exists", "url": address})
            return
        private = bool(body.get("private") or body.get("visibility") == "private")
        self.repositories[key] = Repository(private, body)
        self.repositories[key].add({".gitattributes": StoredFile(b"*.safetensors filter=lfs\n")})
        request.reply(200, {"url": address})

    def _lfs_object(self, request: Any, oid: str, data: bytes) -> None:
        if request.command != "PUT":
            request.reply(200, b"" if request.command == "POST" else self.lfs[oid], ETag=f'"{oid}"')
            return
        self.hold(oid)
        matches = hashlib.sha256(data).hexdigest() == oid
        if matches:
            self.lfs[oid] = data
        request.reply(200 if matches else 400)

    def _lfs_batch(self, request: Any, objects: list[dict[str, Any]]) -> None:
        def actions(oid: str) -> dict[str, Any]:
            if oid in self.lfs:
                return {}  # nothing to send
            href = f"{self.url}/_lfs/{oid}"
            return {"actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}}

        entries = [entry | actions(entry["oid"]) for entry in objects]
        request.reply(200, {"transfer": "basic", "objects": entries})

    def _repository(
        self, request: Any, key: Key, verb: str | None, revision: str | None, path: str, data: bytes, known: bool
    ) -> None:
        repository = self.repositories[key]
        if repository.private and not known:
            raise KeyError(key)  # a private repository looks like none
        oid, files = repository.at(revision if verb else None)
        if verb == "preupload":
            request.reply(
                200, {"files": [self._preupload(entry["path"], files) for entry in json.loads(data)["files"]]}
            )
        elif verb == "commit":
            new = repository.add(self._changed(files, data))
            request.reply(200, {"commitOid": new, "commitUrl": f"{self.url}/{key[1]}/commit/{new}"})
        elif verb == "tree":
            entries = [_tree_entry(name, file) for name, file in sorted(files.items()) if name.startswith(path)]
            if entries or not path:
                request.reply(200, entries)
            else:
                request.reply(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        else:
            siblings = [{"rfilename": name} for name in files]
            info = {"id": key[1], "sha": oid, "private": repository.private, "gated": False, "tags": []}
            request.reply(200, info | {"siblings": siblings})

    def _preupload(self, path: str, files: dict[str, StoredFile]) -> dict[str, Any]:
        # the hash of what is there lets the client leave unchanged files out
        known = {"oid": files[path].oid} if path in files else {}
        mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
        return {"path": path, "shouldIgnore": False, "uploadMode": mode, **known}

    def _changed(self, files: dict[str, StoredFile], data: bytes) -> dict[str, StoredFile]:
        files = dict(files)
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = StoredFile(self.lfs[value["oid"]], value["oid"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        return files

    def _resolve(self, request: Any, key: Key, revision: str, path: str, known: bool) -> None:
        repository = self.repositories[key]
        if repository.private and not known:
            raise KeyError(key)
        oid, files = repository.at(revision)
        file = files.get(path)
        if file is None:
            request.reply(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        elif file.lfs is None:
            request.reply(200, file.data, ETag=f'"{file.oid}"', X_Repo_Commit=oid)
        else:
            # another host, as on the real Hub: the client must not send its token there
            address = f"{self.url.replace('127.0.0.1', 'localhost')}/_lfs/{file.lfs}"
            linked = {"X_Linked_ETag": f'"{file.lfs}"', "X_Linked_Size": len(file.data)}
            request.reply(302, ETag=f'"{file.lfs}"', X_Repo_Commit=oid, Location=address, **linked)


def _tree_entry(path: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.data), "oid": git_oid(file.data)}
    if file.lfs is not None:
        entry["lfs"] = {"oid": file.lfs, "size": len(file.data), "pointerSize": 134}
    return entry
