"""The chart and the image on a real node: kubelet, containerd and API server 1.20.2, run by
``make e2e-kubernetes`` (root, Debian 12; the first run builds Kubernetes).

Not shown here, for this release or this node doesn't have it: Pod Security admission (1.23),
sidecars among init containers (1.29), validating admission policies, image volumes; KServe's own
controller and webhook (its pods are written by hand as it would inject them), Knative, Istio;
SELinux; cgroup v2; several nodes.
"""
