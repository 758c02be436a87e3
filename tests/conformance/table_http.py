"""C05–C18, C38 and C55: local paths, http(s), and archives."""

from __future__ import annotations

import gzip
import itertools
from typing import TYPE_CHECKING, Any

from tests.conformance.packing import tar, tar_zst, zipped
from tests.conformance.rows import Row
from tests.conformance.web import Page
from tests.servers.loopback import OCTETS

if TYPE_CHECKING:
    from tests.conformance.world import Outcome, World

WEIGHTS = b"the weights\x00\x01" * 100
PTH = {"model.pth": WEIGHTS}
TAR_GZ = tar(PTH, mode="gz")
ZIP = zipped(PTH)
_numbers = itertools.count()


def http(
    id: str, case: str, name: str, page: Page | None, *, query: str = "", **expected: Any
) -> Row:
    """A row with one page at a path of its own."""
    path = f"/{id}-{next(_numbers)}/{name}"
    return Row(
        id=id,
        case=case,
        uri=f"$web{path}{query}",
        pages={} if page is None else {path: page},
        **expected,
    )


def header_went(world: World, _: Outcome) -> None:
    sent = [seen.headers.get("authorization") for seen in world.web.seen if "/C18-" in seen.target]
    assert sent
    assert set(sent) == {"x"}


def header_stayed(world: World, _: Outcome) -> None:
    sent = [seen.headers.get("authorization") for seen in world.public_web.seen]
    assert sent
    assert set(sent) == {None}


def warned(world: World, outcome: Outcome) -> None:
    assert "ca bundle" in outcome.stderr.lower()


def quiet(world: World, outcome: Outcome) -> None:
    assert "warning" not in outcome.stderr.lower()


LOCAL = [
    Row(id="C05", case="no such path", uri="file:///no/such", fails=(4,), says="does not exist"),
    Row(
        id="C06",
        case="a directory is copied",
        uri="file://$folder/local/C06",
        files={"local/C06/model.bin": WEIGHTS, "local/C06/sub/config.json": b"{}"},
        tree={"model.bin": WEIGHTS, "sub/config.json": b"{}"},
        deviates="makes symbolic links",
    ),
    Row(
        id="C06",
        case="a bare path, hidden entries of its top level left out",
        uri="$folder/local/C06b",
        files={"local/C06b/model.bin": WEIGHTS, "local/C06b/.git/HEAD": b"x"},
        tree={"model.bin": WEIGHTS},
        deviates="makes symbolic links",
    ),
    Row(
        id="C06",
        case="one file",
        uri="file://$folder/local/C06c/model.bin",
        files={"local/C06c/model.bin": WEIGHTS},
        tree={"model.bin": WEIGHTS},
        deviates="makes a symbolic link",
    ),
    Row(
        id="C06",
        case="one archive is unpacked",
        uri="file://$folder/local/C06d/model.tar.gz",
        files={"local/C06d/model.tar.gz": TAR_GZ},
        tree=PTH,
    ),
]

HTTP = [
    http("C07", "a file", "model.joblib", Page(body=WEIGHTS), tree={"model.joblib": WEIGHTS}),
    http("C08", "a query is no part of the name", "model.joblib", Page(body=WEIGHTS),
         query="?foo=bar", tree={"model.joblib": WEIGHTS}),
    *[
        http("C09", kind, "model.tar.gz", Page(body=TAR_GZ, type=f"application/{kind}"), tree=PTH)
        for kind in ("x-tar", "x-gtar", "x-gzip", "gzip")
    ],
    *[
        http("C09", f"compressed by {mode or 'nothing'}", name,
             Page(body=tar(PTH, mode=mode), type="application/x-tar"), tree=PTH)
        for name, mode in (("m.tar", ""), ("m.tgz", "gz"), ("m.tar.bz2", "bz2"), ("m.tar.xz", "xz"))
    ],
    http("C09", "octets", "model.tar.gz", Page(body=TAR_GZ, type=OCTETS), tree=PTH,
         deviates="refuses archives of this type"),
    http("C09", "zstd", "model.tar.zst", Page(body=tar_zst(PTH), type="application/zstd"),
         tree=PTH, deviates="doesn't know .tar.zst"),
    http("C09", "a .gz that is no tar stays", "model.joblib.gz",
         Page(body=gzip.compress(WEIGHTS, mtime=0)),
         tree={"model.joblib.gz": gzip.compress(WEIGHTS, mtime=0)},
         deviates="unpacks it to model.joblib.gz.tar"),
    http("C10", "a tar with a zip's type", "model.tar.gz",
         Page(body=TAR_GZ, type="application/zip"), fails=(1,), says="did not respond with"),
    http("C11", "a tar behind a query", "model.tar.gz",
         Page(body=TAR_GZ, type="application/x-tar"), query="?foo=bar", tree=PTH),
    *[
        http("C12", kind, "model.zip", Page(body=ZIP, type=f"application/{kind}"), tree=PTH)
        for kind in ("zip", "x-zip-compressed", "zip-compressed")
    ],
    http("C13", "the archive's name is in the query", "download",
         Page(body=ZIP, type="application/zip"), query="?path=/x/model.zip", tree=PTH),
    http("C14", "404", "model.joblib", None, fails=(4,), says="not found"),
    http("C15", "HTML for a model", "x.model", Page(body=b"<html>", type="text/html"),
         fails=(1,), says="web page"),
    http("C15", "HTML for an archive", "model.zip", Page(body=b"<html>", type="text/html"),
         fails=(1,), says="web page"),
    http("C15", "another type for a model", "x.model", Page(body=b"m", type="text/plain"),
         fails=(1,), says="did not respond with Content-Type application/octet-stream"),
    http("C15", "the type that S3 gives objects without one", "x.model",
         Page(body=b"m", type="binary/octet-stream"), tree={"x.model": b"m"},
         deviates="refuses the type"),
    Row(id="C16", case="no file name", uri="https://foo.bar/test/", fails=(2,), says="No filename"),
    http("C17", "401", "m.bin", Page(status=401), fails=(5,), says="authentication"),
    http("C17", "403", "m.bin", Page(status=403), fails=(5,), says="access denied"),
    http("C17", "500", "m.bin", Page(status=500), fails=(1,), says="500"),
    http("C18", "the host's headers are sent", "m.bin",
         Page(body=WEIGHTS, wants={"Authorization": "x"}),
         env={"127.0.0.1-headers": '{"Authorization":"x"}'},
         tree={"m.bin": WEIGHTS}, check=header_went),
    http("C18", "another host's headers are not", "m.bin",
         Page(body=WEIGHTS, wants={"Authorization": "x"}),
         env={"example.com-headers": '{"Authorization":"x"}'},
         fails=(5,), says="authentication"),
    http("C18", "nor are they sent where a redirect leads", "m.bin",
         Page(status=302, location="$elsewhere/C18r/m.bin"),
         env={"127.0.0.1-headers": '{"Authorization":"x"}'},
         tree={"m.bin": WEIGHTS}, check=header_stayed),
]  # fmt: skip

AUTHORITIES = [
    Row(
        id="C38",
        case=case,
        uri=uri,
        env={
            "CA_BUNDLE_CONFIGMAP_NAME": "global-ca-bundle",
            "CA_BUNDLE_VOLUME_MOUNT_POINT": f"$certificates/{bundle}",
        },
        **expected,
    )
    for case, uri, bundle, expected in (
        ("the custom authority is trusted", "$nginx_tls/C38/m.bin", "custom",
         {"tree": {"m.bin": WEIGHTS}, "check": quiet}),
        ("the public ones still are", "$public_web/C38/m.bin", "custom",
         {"tree": {"m.bin": WEIGHTS}, "check": quiet}),
        ("a malformed bundle only warns", "$public_web/C38m/m.bin", "malformed",
         {"tree": {"m.bin": WEIGHTS}, "check": warned}),
        ("a missing bundle only warns", "$public_web/C38n/m.bin", "nowhere",
         {"tree": {"m.bin": WEIGHTS}, "check": warned}),
        ("a stranger's authority doesn't help", "$nginx_tls/C38s/m.bin", "stranger",
         {"fails": (1,), "says": "TLS"}),
    )
]  # fmt: skip

HOSTILE = [
    http("C55", case, f"model.{kind}", Page(body=body, type=f"application/{mime}"),
         fails=(1,), says=says, deviates=deviates)
    for case, kind, mime, body, says, deviates in (
        ("a tar's member above the destination", "tar", "x-tar",
         tar({"ok": b"1", "../x": b"2"}), "'..'", ""),
        ("a tar's absolute member", "tar", "x-tar", tar({"/tmp/x": b"2"}), "absolute",
         "takes the slash away"),
        ("a tar's absolute link", "tar", "x-tar",
         tar({"ok": b"1"}, links={"passwd": "/etc/passwd"}), "passwd", ""),
        ("a tar's link that leaves the tree", "tar", "x-tar",
         tar({"ok": b"1"}, links={"a/up": "../../x"}), "up", ""),
        ("a zip's member above the destination", "zip", "zip",
         zipped({"ok": b"1", "../x": b"2"}), "'..'", "takes the dots away"),
        ("a zip's absolute member", "zip", "zip", zipped({"/tmp/x": b"2"}), "absolute",
         "takes the slash away"),
        ("no archive at all", "zip", "zip", b"PK, but no zip",
         "The file format is not valid", ""),
    )
] + [
    http("C55", "a link inside a tar becomes the file", "model.tar",
         Page(body=tar({"v1/m.bin": WEIGHTS}, links={"current.bin": "v1/m.bin"}),
              type="application/x-tar"),
         tree={"v1/m.bin": WEIGHTS, "current.bin": WEIGHTS}, deviates="keeps symbolic links"),
]  # fmt: skip

ROWS = LOCAL + HTTP + AUTHORITIES + HOSTILE
