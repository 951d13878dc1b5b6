"""The Secret around the document: a dict of the API in, what it holds out, and back. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from srcip_certs import state
from srcip_certs.state import Document, Newer, Unreadable

Json = dict[str, Any]

TYPE = "Opaque"
KEY = "authorities.json"
REJECTED = "authorities.json.rejected"
"""What stood in KEY and could not be read."""
LONGEST_REJECTED = 200_000
"""In base64; a Secret holds 1 MiB at most."""
ROTATE_CA, ROTATE_LEAF = "srcip.io/rotate-ca", "srcip.io/rotate-leaf"
"""Annotations: a new time in one of them asks for a rotation."""
MANAGER = "srcip-certs"


@dataclass(frozen=True)
class Stored:
    """What the Secret holds."""

    raw: Json | None = None
    """None if there is no Secret."""
    document: Document | None = None
    fault: str = ""
    """Why there is no document though there is something."""
    ours: bool = True
    """Whether it may be written: False for another type and for a document of a later release."""
    requests: Mapping[str, str] = field(default_factory=dict)
    """The annotations that ask for rotations."""


def read(raw: Json | None) -> Stored:
    """What a Secret holds; None is none. Nothing in it can make this fail."""
    if raw is None:
        return Stored()
    annotations = raw.get("metadata", {}).get("annotations") or {}
    requests = {name: str(annotations.get(name, ""))[:100] for name in (ROTATE_CA, ROTATE_LEAF)}
    if raw.get("type", TYPE) != TYPE:
        fault = f"the Secret's type is {raw['type']}, not {TYPE}: srcip did not create it; delete or rename it"
        return Stored(raw, None, fault, False, requests)
    text = (raw.get("data") or {}).get(KEY)
    if not text:
        return Stored(raw, requests=requests)
    try:
        return Stored(raw, state.load(base64.b64decode(text, validate=True).decode()), requests=requests)
    except Newer as error:
        return Stored(raw, None, str(error), False, requests)
    except (binascii.Error, UnicodeDecodeError, Unreadable) as error:
        return Stored(raw, None, f"{KEY} is not readable: {error}", True, requests)


def body(stored: Stored, document: Document, namespace: str, name: str, owner: Json | None) -> Json:
    """The Secret to write in place of `stored`: everything else in it stays, what could not be read is put aside."""
    raw = stored.raw or {}
    data = dict(raw.get("data") or {})
    if stored.fault and len(data.get(KEY, "")) <= LONGEST_REJECTED:
        data[REJECTED] = data.get(KEY, "")
    data[KEY] = base64.b64encode(state.dump(document).encode()).decode()
    metadata = {**raw.get("metadata", {}), "namespace": namespace, "name": name}
    metadata.pop("managedFields", None)
    metadata["labels"] = {"app.kubernetes.io/managed-by": MANAGER, **(metadata.get("labels") or {})}
    if owner and not owned(stored, owner):
        metadata["ownerReferences"] = [
            *(each for each in metadata.get("ownerReferences") or () if each.get("kind") != owner["kind"]),
            owner,
        ]
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TYPE, "data": data}


def owned(stored: Stored, owner: Json | None) -> bool:
    """Whether the Secret goes with its owner; the garbage collector removes one whose owner is another."""
    if owner is None:
        return True
    references = (stored.raw or {}).get("metadata", {}).get("ownerReferences") or ()
    return any(each.get("uid") == owner["uid"] for each in references)


def owner_reference(deployment: Json) -> Json:
    """What names a Deployment as the owner."""
    metadata = deployment["metadata"]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
