"""Kubernetes on one machine, for the tests: a real control plane (ring 3) and a whole node (ring 4)."""
