"""The counters of ebpf mode of a whole node, for Prometheus."""
