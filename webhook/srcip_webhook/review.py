"""The AdmissionReview envelope: read strictly, answered exactly. The object inside stays a plain dict."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from srcip_webhook.patch import Operation

MAX_MESSAGE = 8 * 1024
"""Longest text of a refusal, in characters; what is more is cut."""
MAX_WARNING = 256
"""Longest warning that the API server hands on whole, in characters."""

Short = Annotated[str, Field(max_length=1024)]


class ReviewError(ValueError):
    """The request is not an AdmissionReview v1 of this webhook's kind: the sender's fault, HTTP 400."""


class Kind(BaseModel):
    model_config = ConfigDict(frozen=True)

    group: Short = ""
    version: Short
    kind: Short


class Request(BaseModel):
    """What the API server asks about; fields that are not needed here are ignored."""

    model_config = ConfigDict(frozen=True)

    uid: Annotated[str, Field(min_length=1, max_length=256)]
    kind: Kind
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    namespace: Short = ""
    name: Short = ""
    sub_resource: Annotated[Short, Field(alias="subResource")] = ""
    dry_run: Annotated[bool | None, Field(alias="dryRun")] = None
    object: dict[str, Any] | None = None


class Review(BaseModel):
    model_config = ConfigDict(frozen=True)

    api_version: Annotated[Literal["admission.k8s.io/v1"], Field(alias="apiVersion")]
    kind: Literal["AdmissionReview"]
    request: Request


_REVIEW: TypeAdapter[Review] = TypeAdapter(Review)


def read(body: bytes | bytearray) -> Request:
    """The request in the body. Raises ReviewError with every fault.

    The whole body is decoded first: pydantic's own way takes twice as long for the object inside, which nobody checks
    here, and no other thread runs meanwhile. It is for the faults, which it tells in the words of JSON.
    """
    with suppress(ValueError):  # so is ValidationError
        return _complete(_REVIEW.validate_python(from_json(body)).request)
    try:
        return _complete(_REVIEW.validate_json(body).request)
    except ValidationError as error:
        raise ReviewError(_sentence(error)) from None


def from_dict(review: Any) -> Request:
    """The request in a review that is already decoded. Raises ReviewError with every fault."""
    try:
        return _complete(_REVIEW.validate_python(review).request)
    except ValidationError as error:
        raise ReviewError(_sentence(error)) from None


def _complete(request: Request) -> Request:
    if request.operation in ("CREATE", "UPDATE") and request.object is None:
        raise ReviewError("not an AdmissionReview v1: request.object: missing")
    return request


def _sentence(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults[:10]]
    return "not an AdmissionReview v1: " + "; ".join(told)


def allowed(uid: str, patch: list[Operation], warnings: tuple[str, ...], audit: dict[str, str]) -> dict[str, Any]:
    """The answer that lets the object in, with what is to be changed in it."""
    response: dict[str, Any] = {"uid": uid, "allowed": True, "auditAnnotations": audit}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(patch, separators=(",", ":")).encode()).decode()
    return _review(response, warnings)


def refused(uid: str, messages: list[str], warnings: tuple[str, ...], audit: dict[str, str]) -> dict[str, Any]:
    """The answer that keeps the object out: the object's fault, with every reason."""
    text = "\n".join([f"{len(messages)} faults:", *(f"- {item}" for item in messages)]) if messages[1:] else messages[0]
    text = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."
    status = {"status": "Failure", "code": 422, "reason": "Invalid", "message": text}
    return _review({"uid": uid, "allowed": False, "auditAnnotations": audit, "status": status}, warnings)


def _review(response: dict[str, Any], warnings: tuple[str, ...]) -> dict[str, Any]:
    if warnings:
        response["warnings"] = [text[:MAX_WARNING] for text in warnings]
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
