"""What cachd may do in the cluster, and who may come to it."""

from __future__ import annotations

import json

from tests.chart.rendering import (
    CHART,
    Object,
    container_of,
    environment,
    of_kind,
    pod_of,
    render,
    the,
)

API = ("api.enabled=true", "api.tlsSecret=cachd-tls", "api.tokenSecret=cachd-token")


def rules(objects: list[Object]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) that the ClusterRole allows."""
    return {
        (group, resource, verb)
        for role in of_kind(objects, "ClusterRole")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_least_of_the_cluster() -> None:
    objects = render()
    assert rules(objects) == {
        ("", "pods", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("", "events", "create"),
        ("", "events", "patch"),
    }
    assert environment(container_of(objects))["CACHD_KUBERNETES_EVENTS"] == "true"
    binding = the(objects, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == the(objects, "ClusterRole")["metadata"]["name"]
    (subject,) = binding["subjects"]
    account = the(objects, "ServiceAccount")["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert pod_of(objects)["serviceAccountName"] == account["name"]
    assert pod_of(objects)["automountServiceAccountToken"] is True


def test_rights_follow_what_is_turned_on() -> None:
    plain = rules(render("kubernetes.events=false"))
    assert {resource for _, resource, _ in plain} == {"pods", "tokenreviews"}
    labelled = rules(render(values=CHART / "ci/node-labels-values.yaml"))
    assert labelled - rules(render()) == {("", "nodes", "get"), ("", "nodes", "patch")}


def test_an_upstream_has_its_token_and_authority() -> None:
    objects = render(values=CHART / "ci/upstream-values.yaml")
    container = container_of(objects)
    environ = environment(container)
    endpoints = json.loads(environ["CACHD_UPSTREAM_ENDPOINTS"])
    assert endpoints == ["https://mirror-cachd-api.cachd.svc:9443"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert environ["CACHD_UPSTREAM_TOKEN_FILE"] == f"{mounted['upstream-token']}/token"
    assert environ["CACHD_UPSTREAM_CA_BUNDLE"] == f"{mounted['upstream-ca']}/ca.crt"
    secrets = {
        volume["name"]: volume["secret"]["secretName"]
        for volume in pod_of(objects)["volumes"]
        if "secret" in volume
    }
    assert secrets == {"upstream-token": "mirror-token", "upstream-ca": "mirror-ca"}
    mirror = render(values=CHART / "ci/mirror-values.yaml")
    assert environment(container_of(mirror))["CACHD_LISTEN_API_ROLE"] == "peer"


def test_two_releases_have_cluster_roles_of_their_own() -> None:
    names = {
        the(render(*settings), "ClusterRole")["metadata"]["name"]
        for settings in ((), ("fullnameOverride=other",))
    }
    assert names == {"cache-nodes-cachd", "cache-other"}


def test_without_kubernetes_there_is_no_token_and_no_role() -> None:
    objects = render("kubernetes.enabled=false")
    assert rules(objects) == set()
    assert of_kind(objects, "ClusterRoleBinding") == []
    assert pod_of(objects)["automountServiceAccountToken"] is False
    assert environment(container_of(objects))["CACHD_KUBERNETES_ENABLED"] == "false"


def test_roles_may_be_somebody_else_s_business() -> None:
    objects = render("rbac.create=false")
    assert rules(objects) == set()
    assert pod_of(objects)["automountServiceAccountToken"] is True


def test_the_api_over_tcp_is_off_until_it_has_a_certificate_and_a_token() -> None:
    off = container_of(render())
    assert [port["name"] for port in off["ports"]] == ["health"]
    assert not [name for name in environment(off) if name.startswith("CACHD_LISTEN_API")]
    objects = render(*API)
    container = container_of(objects)
    environ = environment(container)
    assert environ["CACHD_LISTEN_API_ADDRESS"] == "0.0.0.0:9443"
    secrets = {
        volume["name"]: volume["secret"]["secretName"]
        for volume in pod_of(objects)["volumes"]
        if "secret" in volume
    }
    assert secrets == {"api-tls": "cachd-tls", "api-token": "cachd-token"}
    mounted = {
        mount["name"]: mount["mountPath"]
        for mount in container["volumeMounts"]
        if mount.get("readOnly")
    }
    assert environ["CACHD_LISTEN_API_CERTIFICATE"] == f"{mounted['api-tls']}/tls.crt"
    assert environ["CACHD_LISTEN_API_PRIVATE_KEY"] == f"{mounted['api-tls']}/tls.key"
    assert environ["CACHD_LISTEN_API_TOKEN_FILE"] == f"{mounted['api-token']}/token"
    service = the(objects, "Service")["spec"]
    assert service["ports"] == [{"name": "api", "port": 9443, "targetPort": "api"}]
    assert "internalTrafficPolicy" not in service
    assert container["ports"][1] == {"name": "api", "containerPort": 9443}


def test_the_api_may_be_the_node_s_own() -> None:
    objects = render(*API, "api.service.sameNodeOnly=true", "api.hostPort=true", version="1.30.0")
    assert the(objects, "Service")["spec"]["internalTrafficPolicy"] == "Local"
    assert container_of(objects)["ports"][1]["hostPort"] == 9443


def test_network_policy_lets_in_what_is_named() -> None:
    assert of_kind(render(), "NetworkPolicy") == []
    open_to_all = the(render("networkPolicy.enabled=true"), "NetworkPolicy")["spec"]
    assert open_to_all["policyTypes"] == ["Ingress"]
    assert open_to_all["ingress"] == [{"ports": [{"port": "health", "protocol": "TCP"}]}]
    objects = render(values=CHART / "ci/network-policy-values.yaml")
    spec = the(objects, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["ingress"]] == [
        ["health"],
        ["api"],
    ]
    assert all(rule["from"] for rule in spec["ingress"])
    (workload,) = of_kind(objects, "DaemonSet")
    assert spec["podSelector"] == workload["spec"]["selector"]


def test_namespaces_get_a_claim_bound_to_their_own_volume() -> None:
    objects = render(values=CHART / "ci/kserve-values.yaml")
    volumes = {
        item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "PersistentVolume")
    }
    claims = of_kind(objects, "PersistentVolumeClaim")
    assert {(c["metadata"]["namespace"], c["metadata"]["name"]) for c in claims} == {
        ("team-a", "nodes-cachd-socket"),
        ("team-b", "nodes-cachd-socket"),
        ("team-b", "nodes-cachd-views"),
    }
    for claim in claims:
        spec = claim["spec"]
        volume = volumes.pop(spec["volumeName"])
        assert volume["claimRef"]["namespace"] == claim["metadata"]["namespace"]
        assert volume["claimRef"]["name"] == claim["metadata"]["name"]
        assert volume["storageClassName"] == spec["storageClassName"] == ""
        assert volume["accessModes"] == spec["accessModes"]
        assert volume["persistentVolumeReclaimPolicy"] == "Retain"
        assert volume["capacity"] == spec["resources"]["requests"]
        assert "nodeAffinity" not in volume
        kind = claim["metadata"]["name"].rpartition("-")[2]
        path = {"socket": "/run/cachd", "views": "/var/cache/cachd/views"}[kind]
        assert volume["hostPath"] == {"path": path, "type": "Directory"}
    assert volumes == {}
