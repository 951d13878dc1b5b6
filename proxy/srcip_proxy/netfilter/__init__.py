"""The rules and routes of one Pod: what is led to the sidecar, and how replies come back."""
