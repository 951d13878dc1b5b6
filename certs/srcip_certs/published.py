"""The MutatingWebhookConfiguration: what its caBundles hold, and the patch that changes them. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from srcip_certs import authority
from srcip_certs.authority import Bundle, Certificate

Json = dict[str, Any]

NOTHING = Bundle((), False)


@dataclass(frozen=True)
class Published:
    """The caBundle of each webhook of a configuration. One that does not exist has none: it can't refuse anything."""

    resource_version: str = ""
    bundles: tuple[Bundle, ...] = ()

    @property
    def known(self) -> dict[str, Certificate]:
        """By fingerprint, all certificates in any of the bundles."""
        return {each.fingerprint: each for bundle in self.bundles for each in bundle.certificates}

    @property
    def in_force(self) -> frozenset[str]:
        """Fingerprints of the certificates in every bundle."""
        sets = [frozenset(each.fingerprint for each in bundle.certificates) for bundle in self.bundles]
        return frozenset.intersection(*sets) if sets else frozenset()

    def missing(self, wanted: Iterable[Certificate]) -> frozenset[str]:
        """Fingerprints of those of `wanted` that are not in every bundle."""
        return frozenset(each.fingerprint for each in wanted) - self.in_force if self.bundles else frozenset()

    def equals(self, wanted: Iterable[Certificate]) -> bool:
        """Whether every bundle holds these and nothing else, in any order."""
        fingerprints = {each.fingerprint for each in wanted}
        return all(
            not bundle.junk and {each.fingerprint for each in bundle.certificates} == fingerprints
            for bundle in self.bundles
        )


def read(raw: Json | None) -> Published:
    """What a configuration publishes; None is one that does not exist."""
    if raw is None:
        return Published()
    webhooks = raw.get("webhooks") or ()
    bundles = tuple(_bundle((each.get("clientConfig") or {}).get("caBundle") or "") for each in webhooks)
    return Published(raw["metadata"]["resourceVersion"], bundles)


def _bundle(text: str) -> Bundle:
    try:
        return authority.bundle(base64.b64decode(text, validate=True).decode())
    except (binascii.Error, UnicodeDecodeError):
        return Bundle((), True)


def patch(published: Published, wanted: Iterable[Certificate]) -> list[Json]:
    """A JSON patch that puts these into every caBundle, and fails if anything was changed in the meantime."""
    text = base64.b64encode("".join(each.pem for each in wanted).encode()).decode()
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": published.resource_version}
    places = (f"/webhooks/{index}/clientConfig/caBundle" for index in range(len(published.bundles)))
    return [test, *({"op": "add", "path": place, "value": text} for place in places)]
