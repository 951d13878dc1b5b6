"""The Kubernetes API as srcip's own programs use it: a client, and a watch that goes on where it ended."""
