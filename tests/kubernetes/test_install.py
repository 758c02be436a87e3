"""The chart's DaemonSet from our own image."""

from __future__ import annotations

from tests.kubernetes.release import Release


def test_the_daemon_runs_unprivileged_on_a_read_only_root(release: Release) -> None:
    pod = release.daemon()
    item = pod.get()
    assert item is not None
    spec, (status,) = item["spec"], item["status"]["containerStatuses"]
    assert status["ready"]
    assert status["restartCount"] == 0
    assert not {"hostPID", "hostNetwork", "hostIPC"} & spec.keys()
    see = "import os; print(os.getuid(), os.getgid(), os.environ['CACHD_SOCKET'])"
    seen = pod.exec("python", "-c", see, container="cachd").split()
    assert seen == ["10001", "10001", "/run/cachd/cachd.sock"]
    status_file = pod.exec("cat", "/proc/1/status", container="cachd")
    capabilities = dict(line.split(":\t") for line in status_file.splitlines() if "Cap" in line)
    assert set(capabilities.values()) == {"0" * 16}
    assert "NoNewPrivs:\t1" in status_file
    code, _, error = pod.try_exec("touch", "/etc/x", "/opt/x", container="cachd")
    assert code != 0
    assert error.count("Read-only file system") == 2


def test_the_directories_of_the_node_belong_to_the_daemon(release: Release) -> None:
    release.daemon()
    for name in ("/var/cache/cachd", "/run/cachd", "/run/cachd-admin"):
        status = release.cluster.path(name).stat()
        assert (status.st_uid, status.st_gid) == (10001, 10001), name
    admin = release.cluster.path("/run/cachd-admin/admin.sock").stat()
    assert admin.st_mode & 0o777 == 0o600
