"""Kubernetes, as the gateway uses it: where stages and decoders are, which pods to spare, which to mind."""

from services.gateway.cluster.cluster import Cluster

__all__ = ["Cluster"]
