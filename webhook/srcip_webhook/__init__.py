"""srcip: the admission webhook that gives Pods their source-IP sidecar."""

__version__ = "0.1.0"
