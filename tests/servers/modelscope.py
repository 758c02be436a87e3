"""ModelScope as its clients see it, on loopback: what can't be had offline.

Written from what modelscope_hub calls and expects (``_legacy_api.py``, ``_download.py``), and from
what is known of its listings: they end silently at ``most`` entries, and each file names the commit
that last changed it.
"""

from __future__ import annotations

import json

from tests.servers.repositories import Call, Repository, RepositoryServer, sha256_of


class ModelScope(RepositoryServer):
    branch = "master"
    most = 3000

    def act(self, call: Call) -> None:
        parts = call.parts
        if parts[:3] != ["api", "v1", "models"] or len(parts) < 5:
            return answer(call, 404, 404, "Not found")
        name, what = f"{parts[3]}/{parts[4]}", "/".join(parts[5:])
        cookie = call.headers.get("Cookie", "")
        if call.token and (call.token not in self.tokens or cookie != f"m_session_id={call.token}"):
            return answer(call, 401, 10010103009, "AccessToken is invalid or expired")
        repository = self.repositories.get(name)
        if repository is None:
            return answer(call, 404, 10010205001, "Record not found")
        if repository.private and call.token not in repository.readers:
            return answer(call, 403, 10010205003, "Forbidden")
        if not what:
            return answer(call, 200, 200, "success", {"Name": parts[4], "Path": parts[3]})
        commit = repository.find(call.query.get("Revision", "master"))
        if commit is None:
            return answer(call, 404, 10010205001, "Record not found")
        if what == "repo/files":
            return self._files(call, repository, commit)
        path = call.query.get("FilePath", "")
        body = repository.commits[commit].get(path)
        if what != "repo" or body is None:
            return answer(call, 404, 10010205001, "Record not found")
        sent = repository.lies.get(path, body)
        if repository.is_big(path, body) and not self.is_direct:
            return call.send(302, Location=self.store.url_of(sent))
        return call.send_file(sent, **{"Content-Type": "application/octet-stream"})

    def _files(self, call: Call, repository: Repository, commit: str) -> None:
        root = call.query.get("Root", "")
        prefix = f"{root}/" if root else ""
        is_recursive = call.query.get("Recursive", "").lower() == "true"
        found: dict[tuple[str, str], dict[str, object]] = {}
        for path, body in repository.commits[commit].items():
            if not path.startswith(prefix):
                continue
            ends = [i for i, letter in enumerate(path) if letter == "/" and i >= len(prefix)]
            for end in ends if is_recursive else ends[:1]:
                found[path[:end], "tree"] = {
                    "Name": path[:end].rpartition("/")[2],
                    "Path": path[:end],
                    "Type": "tree",
                    "Size": 0,
                    "Sha256": "",
                }
            if is_recursive or not ends:
                found[path, "blob"] = {
                    "Name": path.rpartition("/")[2],
                    "Path": path,
                    "Type": "blob",
                    "Size": len(body),
                    "Sha256": sha256_of(body),
                    "Revision": _changed(repository, path, body),
                    "IsLFS": repository.is_big(path, body),
                }
        files = [found[place] for place in sorted(found)][: self.most]
        return answer(call, 200, 200, "success", {"Files": files or None})


def _changed(repository: Repository, path: str, body: bytes) -> str:
    return next(name for name, files in repository.commits.items() if files.get(path) == body)


def answer(call: Call, status: int, code: int, message: str, data: object = None) -> None:
    body = {"Code": code, "Data": data, "Message": message, "Success": status < 400}
    call.send(status, json.dumps(body).encode(), **{"Content-Type": "application/json"})
