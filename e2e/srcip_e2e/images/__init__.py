"""The images that ship, built from their unchanged Dockerfiles without a registry or a container engine."""

from srcip_e2e.images.builder import build, unpacked
from srcip_e2e.images.recipe import NAMES, reference

__all__ = ["NAMES", "build", "reference", "unpacked"]
