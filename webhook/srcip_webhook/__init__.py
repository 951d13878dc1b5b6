"""srcip: the admission webhook that gives Pods their source-IP sidecar."""
