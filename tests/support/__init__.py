"""What several tests use: rigs, worlds, clients and servers. None of it is a test."""
