"""srcip lab: one injected Pod on this machine, without a cluster."""
