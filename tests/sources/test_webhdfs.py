"""HDFS by WebHDFS: what URIs mean, listings, passes, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from awscrt import checksums

from cachd.credentials import Credentials, SourceOptions
from cachd.errors import (
    AccessError,
    CachdError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginChanged,
    OriginError,
    OriginUnreachable,
    UriInvalid,
)
from cachd.model import Digest, Plan
from cachd.settings import SourcesSettings
from cachd.sources.webhdfs import WebHdfsSource
from tests.servers.webhdfs import HdfsServer
from tests.sources.asking import NOBODY, context, paths, request, resolve, settings

NN = "http://nn:9870"


def located(uri: str, *, own: str | None = None, **options: Any) -> Any:
    given = settings(hdfs={"namenode": own})
    return WebHdfsSource().locate(uri, SourceOptions(**options), given, {})


@pytest.mark.parametrize(
    ("uri", "options", "canonical", "origin", "endpoint"),
    [
        # KServe's: all is path.
        ("hdfs://user/me/m", {"endpoint": NN}, "hdfs://user/me/m", f"webhdfs+{NN}", NN),
        ("hdfs:///user//me/m/", {"endpoint": NN}, "hdfs://user/me/m", f"webhdfs+{NN}", NN),
        ("webhdfs://m.v1", {"endpoint": "nn:9870"}, "webhdfs://m.v1", f"webhdfs+{NN}", NN),
        (
            "hdfs://m",
            {"endpoint": "http://a:1; http://b:2", "root": "/data", "user": "me&you"},
            "hdfs://m",
            "webhdfs+http://a:1;http://b:2#root=%2Fdata&user=me%26you",
            "http://a:1;http://b:2",
        ),
        (
            "hdfs://m",
            {"endpoint": "https://knox:8443/gateway/default/"},
            "hdfs://m",
            "webhdfs+https://knox:8443/gateway/default",
            "https://knox:8443/gateway/default",
        ),
        # A port says a host, whatever is configured; without a namenode the first part is one.
        ("webhdfs://nn:9870/m", {}, "webhdfs://nn:9870/m", f"webhdfs+{NN}", NN),
        ("webhdfs://nn:9870/m", {"endpoint": "http://x:1"}, "webhdfs://nn:9870/m",
         f"webhdfs+{NN}", NN),
        ("hdfs://NN/m", {}, "hdfs://nn:9870/m", f"webhdfs+{NN}", NN),
        ("swebhdfs://nn/m", {}, "swebhdfs://nn:9871/m", "webhdfs+https://nn:9871",
         "https://nn:9871"),
        ("hdfs://[::1]:9870/m", {}, "hdfs://[::1]:9870/m", "webhdfs+http://[::1]:9870",
         "http://[::1]:9870"),
        ("webhdfs://nn:9871/m", {"endpoint": "https://nn:9871"}, "webhdfs://nn:9871/m",
         "webhdfs+https://nn:9871", "https://nn:9871"),
    ],
)  # fmt: skip
def test_what_a_uri_means(
    uri: str, options: dict[str, Any], canonical: str, origin: str, endpoint: str
) -> None:
    found = located(uri, **options)
    assert (found.uri, found.origin, found.options.endpoint) == (canonical, origin, endpoint)
    # What is canonical means the same with the endpoint that the origin names.
    options = {**options, "endpoint": origin.partition("+")[2].partition("#")[0]}
    again = located(canonical, **options)
    assert (again.uri, again.origin) == (canonical, origin)


def test_whose_namenode_it_is() -> None:
    assert located("hdfs://m", own=NN).is_default_origin
    assert located("hdfs://nn:9870/m", own=f"{NN};http://b:1").is_default_origin
    assert not located("hdfs://m", own=NN, endpoint="http://other:1").is_default_origin
    assert not located("hdfs://m", own=NN, user="me").is_default_origin
    assert not located("hdfs://other:1/m", own=NN).is_default_origin
    assert not located("hdfs://other:1/m").is_default_origin


@pytest.mark.parametrize(
    ("uri", "options", "says"),
    [
        ("hdfs:///m", {}, "names no namenode"),
        ("webhdfs://me@nn:9870/m", {}, "user information"),
        ("webhdfs://nn:9870/m?op=OPEN", {}, "no query"),
        ("webhdfs://nn:9870/a/../b", {}, "'..'"),
        ("webhdfs://nn:99999/m", {}, "no host"),
        ("hdfs://m", {"endpoint": "ftp://nn"}, "namenode can't be called"),
        ("hdfs://m", {"endpoint": ";"}, "0 namenodes"),
    ],
)
def test_what_no_uri_means(uri: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UriInvalid, match=says):
        located(uri, **options)


@pytest.fixture
def server() -> Iterator[HdfsServer]:
    with HdfsServer() as one:
        one.hdfs.put("/models/m/weights.bin", b"w" * 3000)
        one.hdfs.put("/models/m/sub/ü n%25.json", b"{}")
        one.hdfs.put("/models/m/empty", b"")
        one.hdfs.mkdir("/models/m/hollow")
        one.hdfs.put("/models/m-hf/other.bin", b"x")
        yield one


async def plan_of(
    server: HdfsServer, path: str = "models/m", credentials: Credentials = NOBODY, **options: Any
) -> Plan:
    options.setdefault("endpoint", server.url)
    return await resolve(f"hdfs://{path}", credentials, **options)


TREE = {"empty": 0, "sub/ü n%25.json": 2, "weights.bin": 3000}


async def test_a_directory(server: HdfsServer) -> None:
    plan = await plan_of(server)
    assert paths(plan) == TREE
    assert plan.needs_recheck
    assert not plan.is_credentialed
    (file,) = (f for f in plan.files if "json" in f.path)
    expected = f"{server.url}/webhdfs/v1/models/m/sub/%C3%BC%20n%2525.json?op=OPEN"
    assert (file.url, file.range_query) == (expected, "offset={offset}&length={length}")
    named = await resolve(f"webhdfs://{server.host}/models/m", NOBODY)
    assert (named.files, named.revision) == (plan.files, plan.revision)


async def test_one_file_bypasses_patterns(server: HdfsServer) -> None:
    server.hdfs.put("/models/x/x", b"inner")
    plan = await plan_of(server, "models/m/weights.bin", allow=("*.json",))
    assert paths(plan) == {"weights.bin": 3000}
    # A file may have its directory's name.
    (file,) = (await plan_of(server, "models/x")).files
    assert file.url.endswith("/models/x/x?op=OPEN")


async def test_patterns_and_roots(server: HdfsServer) -> None:
    assert paths(await plan_of(server, allow=("*.json",))) == {"sub/ü n%25.json": 2}
    assert paths(await plan_of(server, "m", root="/models")) == TREE


async def test_one_archive_is_unpacked(server: HdfsServer) -> None:
    server.hdfs.put("/packed/m.tar.gz", b"?")
    assert (await plan_of(server, "packed")).unpack == "tar"


async def test_nothing_there(server: HdfsServer) -> None:
    with pytest.raises(NotFound, match="/nowhere does not exist"):
        await plan_of(server, "nowhere")
    with pytest.raises(NotFound, match=r"No model found in hdfs://models/m/hollow"):
        await plan_of(server, "models/m/hollow")
    with pytest.raises(NotFound, match="patterns"):
        await plan_of(server, allow=("*.gguf",))


@pytest.mark.parametrize("is_gateway", [False, True])
async def test_large_directories_come_in_batches(server: HdfsServer, is_gateway: bool) -> None:
    hdfs = server.hdfs
    hdfs.is_gateway = is_gateway
    for number in range(2500):
        hdfs.files[f"/big/{number:05}"] = hdfs.files["/models/m/empty"]
    hdfs.mkdir("/big")
    assert len((await plan_of(server, "big")).files) == 2500
    expected = ["LISTSTATUS"] if is_gateway else ["LISTSTATUS_BATCH"] * 3
    assert hdfs.ops() == ["GETFILESTATUS", *expected]


async def test_revisions_tell_states_apart(server: HdfsServer) -> None:
    before = (await plan_of(server)).revision
    assert (await plan_of(server)).revision == before
    old = server.hdfs.files["/models/m/weights.bin"]
    # Written anew with the same length at the same time: another inode.
    server.hdfs.put("/models/m/weights.bin", b"v" * 3000, modified=old.modified)
    assert (await plan_of(server)).revision != before


async def test_checksums_of_whole_bytes(server: HdfsServer) -> None:
    assert {f.digest for f in (await plan_of(server)).files} == {None}
    assert server.hdfs.ops("datanode") == ["GETFILECHECKSUM"]
    server.hdfs.combine = "COMPOSITE_CRC"
    files = {f.path: f.digest for f in (await plan_of(server)).files}
    value = f"{checksums.crc32c(b'w' * 3000):08x}"
    assert files["weights.bin"] == Digest(algorithm="crc32c", value=value)
    assert files["sub/ü n%25.json"] is not None
    assert files["empty"] is None
    server.hdfs.seen.clear()
    given = SourcesSettings.model_validate({"hdfs": {"checksums": 0}})
    assert {f.digest for f in (await plan_of(server, given=given)).files} == {None}
    assert server.hdfs.ops("datanode") == []


async def test_links_are_refused(server: HdfsServer) -> None:
    server.hdfs.link("/models/m/link", "/etc")
    with pytest.raises(ContentError, match="'link', a symbolic link"):
        await plan_of(server)
    assert paths(await plan_of(server, ignore=("link",))) == TREE


# --- passes ----------------------------------------------------------------------------------


async def test_who_one_says_one_is(server: HdfsServer) -> None:
    server.hdfs.readers["/models/m"] = "alice"
    with pytest.raises(AccessError, match=r"user=dr\.who, access=READ.*") as caught:
        await plan_of(server)
    assert "nobody in particular" in caught.value.message
    plan = await plan_of(server, user="alice")
    assert (plan.auth.query, plan.auth.host) == ("user.name=alice", server.host)
    assert not plan.is_credentialed
    with pytest.raises(AccessError, match="the user bob, unproven"):
        await plan_of(server, user="bob")


async def test_delegation_tokens(server: HdfsServer) -> None:
    server.hdfs.tokens["sesame+/="] = "alice"
    with pytest.raises(CredentialsMissing, match="401"):
        await plan_of(server)
    token = Credentials(token="sesame+/=")
    plan = await plan_of(server, credentials=token)
    assert plan.is_credentialed
    assert plan.auth.query == "delegation=sesame%2B%2F%3D"
    assert "sesame" not in "".join(f.url for f in plan.files)
    source, asked = request("hdfs://models/m", token, endpoint=server.url)
    await source.probe(asked, "weights.bin", context())
    assert server.hdfs.seen[-1].server == "datanode"
    assert await source.authorize(asked, context()) == plan.auth
    with pytest.raises(CredentialsInvalid) as caught:
        await plan_of(server, credentials=Credentials(token="over-and-out"))
    assert "over-and-out" not in caught.value.message
    assert "the caller's delegation token" in caught.value.message


async def test_the_daemons_own_token(server: HdfsServer, tmp_path: Any) -> None:
    server.hdfs.tokens["own"] = "cachd"
    (tmp_path / "token").write_text("own\n")
    own = {"namenode": server.url, "token_file": tmp_path / "token"}
    given = settings(hdfs=own)
    plan = await resolve("hdfs://models/m", NOBODY, given=given, identity="daemon")
    assert plan.auth.query == "delegation=own"
    with pytest.raises(CredentialsMissing):
        await resolve("hdfs://models/m", NOBODY, given=given, identity="anonymous")


async def test_headers_go_to_the_namenode_alone(server: HdfsServer) -> None:
    server.hdfs.wants = ("Authorization", "Basic x")
    headers = {"headers": ((server.host, (("Authorization", "Basic x"),)),)}
    plan = await plan_of(server, credentials=Credentials(**headers), user="alice")
    assert plan.auth.headers == (("Authorization", "Basic x"),)
    assert plan.auth.query == "doas=alice"
    sent = {one.server: one.headers.get("authorization") for one in server.hdfs.seen}
    assert sent == {"namenode": "Basic x", "datanode": None}


async def test_headers_for_others_prove_nothing(server: HdfsServer) -> None:
    """A caller whose model a registry names sends what it has for many hosts."""
    server.hdfs.readers["/models/m"] = "alice"
    headers = {"headers": (("registry.example", (("Authorization", "Basic x"),)),)}
    plan = await plan_of(server, credentials=Credentials(**headers), user="alice")
    assert plan.auth.query == "user.name=alice"
    assert not plan.is_credentialed


async def test_kerberos_is_told(server: HdfsServer) -> None:
    server.hdfs.tokens["x"] = "y"
    server.hdfs.wants_kerberos = True
    with pytest.raises(CredentialsMissing) as caught:
        await plan_of(server)
    assert "SPNEGO" in caught.value.hint


async def test_a_file_that_may_only_be_listed(server: HdfsServer) -> None:
    server.hdfs.readers["/models/m/weights.bin"] = "alice"
    source, asked = request("hdfs://models/m", NOBODY, endpoint=server.url)
    await source.resolve(asked, context())
    await source.probe(asked, "empty", context())
    with pytest.raises(AccessError):
        await source.probe(asked, "weights.bin", context())


# --- namenodes -------------------------------------------------------------------------------


async def test_the_active_namenode_is_found_and_kept() -> None:
    with HdfsServer(namenodes=2) as server:
        hdfs = server.hdfs
        hdfs.put("/m/a", b"1")
        hdfs.state[0] = "StandbyException"
        source, asked = request("hdfs://m", NOBODY, endpoint=";".join(server.urls))
        plan = await source.resolve(asked, context())
        assert plan.files[0].url.startswith(server.urls[1])
        hdfs.seen.clear()
        await source.authorize(asked, context())
        assert hdfs.ops() == ["GETFILESTATUS"]
        # It fails over: the plan's URLs are of no use any more.
        hdfs.state = {1: "StandbyException"}
        with pytest.raises(OriginChanged, match="active"):
            await source.authorize(asked, context())
        again = await source.resolve(asked, context())
        assert again.files[0].url.startswith(server.urls[0])
        assert again.revision == plan.revision
        server.stop_namenode(0)
        hdfs.state = {}
        moved = await source.resolve(asked, context())
        assert moved.files[0].url.startswith(server.urls[1])
        hdfs.state = {1: "StandbyException"}
        with pytest.raises(OriginUnreachable):
            await source.resolve(asked, context())


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("SafeModeException", OriginBusy, "not ready"),
        ("RetriableException", OriginBusy, "not ready"),
        ("StandbyException", OriginUnreachable, "no namenode is active"),
        ("AccessControlException", AccessError, "access denied"),
        ("IllegalArgumentException", OriginError, "400 IllegalArgumentException"),
    ],
)
async def test_what_a_namenode_says(
    server: HdfsServer, state: str, error: type[CachdError], says: str
) -> None:
    server.hdfs.state[0] = state
    with pytest.raises(error, match=says):
        await plan_of(server)


async def test_what_is_no_namenode(server: HdfsServer) -> None:
    with pytest.raises(OriginError, match="not as WebHDFS"):
        await plan_of(server, endpoint=f"{server.url}/elsewhere")
