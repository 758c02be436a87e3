# Sourced by the scripts beside it: what they have in common.

release=1.20.2
binaries=${CACHD_KUBERNETES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cachd-kubernetes-$release}
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# What podman needs where root may not raise its limits (scripts/image-build).
settings=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/../..")/build/image/containers.conf
if [ -z "${CONTAINERS_CONF:-}" ] && [ -e "$settings" ]; then
  export CONTAINERS_CONF=$settings
fi
