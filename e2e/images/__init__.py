"""The images that ship, built from their unchanged Dockerfiles without a registry or a container engine."""

from images.builder import build, unpacked
from images.recipe import NAMES, reference

__all__ = ["NAMES", "build", "reference", "unpacked"]
