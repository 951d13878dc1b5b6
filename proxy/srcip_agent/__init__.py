"""The agent of a node: it sets up Pods that have no privilege of their own. docs/agent.md says how."""
