"""The configuration of one sidecar, and its Lua."""
