"""The Hugging Face Hub as its clients see it, on loopback: what can't be had offline.

Written from huggingface.co/docs/hub/api and from what huggingface_hub calls and expects;
tests/sources/test_hf_client.py holds it to the real client.
"""

from __future__ import annotations

import json
from urllib.parse import urlencode

from tests.servers.repositories import Call, Repository, RepositoryServer, git_name, sha256_of

LICENSED = {"library_name": "transformers", "pipeline_tag": "text-generation"}


class Hub(RepositoryServer):
    """Names of datasets begin with ``datasets/``. ``page``: entries of a tree that one answer
    lists."""

    branch = "main"
    page = 1000

    def act(self, call: Call) -> None:
        parts = call.parts
        is_api = parts[0] == "api"
        kind = parts[1] if is_api else parts[0]
        begin = 2 if is_api else int(kind in ("datasets", "models"))
        if len(parts) < begin + 2:
            return refuse(call, 404, "", "Not found")
        prefix = "datasets/" if kind == "datasets" else ""
        name = f"{prefix}{parts[begin]}/{parts[begin + 1]}"
        if call.token and call.token not in self.tokens:
            return refuse(call, 401, "", "Invalid credentials in Authorization header")
        repository = self.repositories.get(name)
        if repository is None or (repository.private and call.token not in repository.readers):
            status = 404 if call.token else 401
            return refuse(call, status, "RepoNotFound", "Repository not found")
        if repository.moved:
            target = call.path.replace(name, repository.moved, 1)
            return call.send(307, Location=target)
        rest = parts[begin + 2 :]
        if is_api:
            return self._api(call, name.removeprefix(prefix), repository, rest)
        if not rest or rest[0] != "resolve":
            return refuse(call, 404, "", "Not found")
        return self._resolve(call, name, repository, rest[1], "/".join(rest[2:]))

    def _api(self, call: Call, name: str, repository: Repository, rest: list[str]) -> None:
        what, revision = [*rest, "revision", "main"][:2] if rest else ("revision", "main")
        commit = repository.find(revision)
        if commit is None:
            return refuse(call, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            return self._tree(call, repository, commit, "/".join(rest[2:]))
        info = {
            "_id": "0" * 24,
            "id": name,
            "author": name.partition("/")[0],
            "sha": commit,
            "lastModified": "2026-01-02T03:04:05.000Z",
            "createdAt": "2025-01-02T03:04:05.000Z",
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": repository.disabled,
            "downloads": 1,
            "likes": 0,
            "tags": ["transformers", "license:apache-2.0"],
            **LICENSED,
            "siblings": [{"rfilename": path} for path in repository.commits[commit]],
        }
        return send_json(call, info)

    def _tree(self, call: Call, repository: Repository, commit: str, below: str) -> None:
        is_recursive = call.query.get("recursive") == "true"
        place = (commit, below, is_recursive)
        entries = repository.trees.get(place)
        if entries is None:
            files = repository.commits[commit]
            entries = repository.trees[place] = _entries(files, below, is_recursive=is_recursive)
        if below and not entries:
            return refuse(call, 404, "EntryNotFound", f"{below} does not exist")
        start = int(call.query.get("cursor", "0"))
        end = start + self.page
        headers = {}
        if end < len(entries):
            query = urlencode({**call.query, "cursor": end})
            headers["Link"] = f'<{self.url}{call.path}?{query}>; rel="next"'
        return send_json(call, entries[start:end], **headers)

    def _resolve(
        self, call: Call, name: str, repository: Repository, revision: str, path: str
    ) -> None:
        if repository.disabled:
            return refuse(call, 403, "", "Access to this resource is disabled.")
        if repository.gated and call.token not in repository.readers:
            words = f"Access to model {name} is restricted."
            return refuse(call, 403 if call.token else 401, "GatedRepo", words)
        commit = repository.find(revision)
        if commit is None:
            return refuse(call, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        body = repository.commits[commit].get(path)
        if body is None:
            return refuse(call, 404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        sent = repository.lies.get(path, body)
        if not repository.is_big(path, body):
            return call.send_file(sent, ETag=f'"{git_name(body)}"', **headers)
        headers |= {
            "X-Linked-Size": str(len(body)),
            "X-Linked-ETag": f'"{sha256_of(body)}"',
        }
        if self.is_direct:
            return call.send_file(sent, ETag=f'"{sha256_of(body)}"', **headers)
        headers["Location"] = self.store.url_of(sent)
        return call.send(302, b"Found. Redirecting", **headers)


def _entries(files: dict[str, bytes], below: str, *, is_recursive: bool) -> list[dict[str, object]]:
    prefix = f"{below}/" if below else ""
    found: dict[tuple[str, str], dict[str, object]] = {}
    for path, body in files.items():
        if not path.startswith(prefix):
            continue
        ends = [i for i, letter in enumerate(path) if letter == "/" and i >= len(prefix)]
        for end in ends if is_recursive else ends[:1]:
            folder = {"type": "directory", "oid": "1" * 40, "size": 0, "path": path[:end]}
            found[path[:end], "directory"] = folder
        if is_recursive or not ends:
            found[path, "file"] = _entry(path, body)
    return [found[place] for place in sorted(found)]


def _entry(path: str, body: bytes) -> dict[str, object]:
    entry = {"type": "file", "oid": git_name(body), "size": len(body), "path": path}
    if not Repository.is_big(path, body):
        return entry
    sha256 = sha256_of(body)
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(body)}\n"
    ).encode()
    lfs = {"oid": sha256, "size": len(body), "pointerSize": len(pointer)}
    return {**entry, "oid": git_name(pointer), "lfs": lfs}


def send_json(call: Call, value: object, **headers: str) -> None:
    call.send(200, json.dumps(value).encode(), **{"Content-Type": "application/json", **headers})


def refuse(call: Call, status: int, code: str, message: str) -> None:
    headers = {"X-Error-Message": ascii(message)[1:-1], "Content-Type": "application/json"}
    if code:
        headers["X-Error-Code"] = code
    call.send(status, json.dumps({"error": message}).encode(), **headers)
