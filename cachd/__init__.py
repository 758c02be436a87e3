"""cachd: the model cache of a Kubernetes node."""

__version__ = "0.1.0"
