"""The init container as kubelet runs it, and what it says when it fails."""

from __future__ import annotations

import hashlib
import random

import pytest

from tests.kubernetes.conftest import NewPod
from tests.kubernetes.pods import INITIALIZER, Way, environment, kserve_pod
from tests.kubernetes.release import Release
from tests.process.origin import CountingOrigin

BODY = random.Random(2).randbytes(5 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize(
    ("uri", "env", "code", "said"),
    [
        ("{origin}/nowhere/model.bin", {}, 4, "/nowhere/model.bin"),
        ("ftp://host/model", {}, 2, "ftp"),
        ("{origin}/m/model.bin", {"CACHD_MODEL_DIGEST": "sha256:" + "0" * 64}, 1, "0000"),
        ("http://169.254.169.254/latest/meta-data/x", {}, 5, "169.254.169.254"),
        ("s3://models/llama", {"CACHD_SOCKET": "/run/cachd/nobody.sock"}, 3, "nobody.sock"),
    ],
    ids=["not-found", "unknown-scheme", "wrong-digest", "metadata-address", "no-daemon"],
)
def test_a_failure_is_an_exit_code_and_a_termination_message(
    uri: str,
    env: dict[str, str],
    code: int,
    said: str,
    release: Release,
    origin: CountingOrigin,
    new_pod: NewPod,
) -> None:
    """1 in KServe's form, where nothing else is known; ``cachd pull`` tells more."""
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    forms = {"kserve": ([], 1), "pull": (["pull"], code)}
    for name, (command, expected) in forms.items():
        variables = environment(CACHD_WAIT_DAEMON="1", **env)
        item = kserve_pod(name, uri.format(origin=origin.url), "/mnt/models", env=variables)
        container = item["spec"]["initContainers"][0]
        container["args"] = [*command, *container["args"]]
        ended = new_pod(item).wait_terminated()
        assert (ended["exitCode"], ended["reason"]) == (expected, "Error"), ended
        assert said in ended["message"]
        assert len(ended["message"].splitlines()) >= 2, "the reason, and what to do next"


@pytest.mark.parametrize("uid", [1337, 0, 1000740000], ids=["istio", "root", "random"])
@pytest.mark.parametrize("way", ["descriptor", "copy", "view"])
def test_any_uid_gets_its_model(
    uid: int, way: Way, release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    uri = f"{origin.url}/m/model.bin"
    pod = new_pod(kserve_pod("p", uri, "/mnt/models", uid=uid, way=way))
    pod.wait_running()
    assert pod.sha256("model.bin") == DIGEST
    owner = pod.exec("stat", "-c", "%u %a", "/mnt/models/model.bin").split()
    assert owner == (["10001", "444"] if way == "view" else [str(uid), "644"])


def test_several_models_in_one_pod(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies |= {"/a/one.bin": b"one", "/b/two.bin": b"two"}
    pairs = [f"{origin.url}/a/one.bin", "/mnt/models/a", f"{origin.url}/b/two.bin", "/mnt/models/b"]
    pod = new_pod(kserve_pod("p", *pairs)).wait_running()
    assert (pod.read("a/one.bin"), pod.read("b/two.bin")) == (b"one", b"two")


def test_killed_in_mid_pull_it_goes_on_and_nothing_is_fetched_twice(
    release: Release, origin: CountingOrigin, new_pod: NewPod
) -> None:
    release.daemon()
    origin.bodies["/m/model.bin"] = BODY
    origin.hold(after=1 << 20)
    pod = new_pod(kserve_pod("p", f"{origin.url}/m/model.bin", "/mnt/models"))
    assert origin.held.wait(60), pod.story()
    first = pod.kill(INITIALIZER)
    pod.wait_restarted(INITIALIZER, first)
    origin.release()
    pod.wait_running()
    assert pod.sha256("model.bin") == DIGEST
    assert pod.exec("ls", "-A", "/mnt/models").split() == ["model.bin"]
    assert origin.sent["/m/model.bin"] == len(BODY)
