"""srcip: the data plane of one Pod. Standard library only."""
