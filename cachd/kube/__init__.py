"""Kubernetes, as far as one node's daemon needs it. Everything here is optional."""
