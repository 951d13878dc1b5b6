"""The kinds of values that are about HTTP headers: see values.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srcip_proxy.plan.headers import LONGEST_NAME, LONGEST_VALUE, MOST, TLVS, Pairs, name_fault, same, value_fault
from srcip_webhook.pods import printable
from srcip_webhook.values import MAX_TEXT, BadValue, collected, each

MOST_TEXT = 4096
"""Longest accepted list of headers, in characters: a request must have room for its own headers beside them."""
VALUE = f"printable ASCII, at most {LONGEST_VALUE} characters, without tabs and without blanks in a row or at an end"

_LIST = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}


@dataclass(frozen=True)
class WordList:
    """Some of these words with commas between, read in their own order."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"{', '.join(self.words)}; several with commas between"

    @property
    def schema(self) -> dict[str, Any]:
        return _LIST

    def parse(self, text: str) -> tuple[str, ...]:
        chosen = each(text, self._word, len(self.words))
        return tuple(word for word in self.words if word in chosen)

    def _word(self, item: str) -> str:
        if item not in self.words:
            raise BadValue([f"{printable(item)} is not known"])
        return item


@dataclass(frozen=True)
class HeaderName:
    """The name of a header that may be written."""

    allowed: str = f"a header's name of letters, digits, - and _, at most {LONGEST_NAME}, and none that frames messages"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}$"}

    def parse(self, text: str) -> str:
        if name_fault(text):
            raise BadValue([f"{printable(text)} is not the name of a header that srcip may write"])
        return text


@dataclass(frozen=True)
class HeaderNames:
    """Names of headers with commas between."""

    allowed: str = (
        f"headers' names of letters, digits, - and _ with commas between, at most {MOST}, and none that frames messages"
    )

    @property
    def schema(self) -> dict[str, Any]:
        return _LIST

    def parse(self, text: str) -> tuple[str, ...]:
        names = tuple(each(text, HeaderName().parse, MOST))
        return tuple({same(name): name for name in names}.values())


@dataclass(frozen=True)
class TlvHeaders:
    """TLVs and the headers that they become: `ssl-cn=X-Client-CN, authority=X-SNI`."""

    @property
    def allowed(self) -> str:
        return f"TLV=Header with commas between, such as ssl-cn=X-Client-CN; TLVs are {', '.join(TLVS)}"

    @property
    def schema(self) -> dict[str, Any]:
        return _LIST

    def parse(self, text: str) -> Pairs:
        pairs = tuple(each(text, self._pair, 32))
        names = [same(name) for _, name in pairs]
        twice = [name for _, name in pairs if names.count(same(name)) > 1]
        if twice:
            raise BadValue([f"{printable(twice[0])} is given twice"])
        return pairs

    @staticmethod
    def _pair(item: str) -> tuple[str, str]:
        tlv, _, name = item.partition("=")
        if tlv not in TLVS:
            raise BadValue([f"{printable(item)} begins with no known TLV"])
        return tlv, HeaderName().parse(name)


@dataclass(frozen=True)
class HeaderValue:
    """The value of a header."""

    allowed: str = f"default, or a header's value: {VALUE}"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^[ -~]{{1,{LONGEST_VALUE}}}$"}

    def parse(self, text: str) -> str:
        if fault := _value_fault(text):
            raise BadValue([f"{printable(text)} {fault}"])
        return text


@dataclass(frozen=True)
class HeaderLines:
    """Headers with their values, one in each line: `X-Team: blue`. Empty lines do not matter."""

    allowed: str = (
        f"lines Name: value, at most {MOST} with {MOST_TEXT} characters in all; names of letters, digits, - and _, "
        f"at most {LONGEST_NAME}, and none that frames messages or holds for one hop; values of {VALUE}"
    )

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": MOST_TEXT}

    def parse(self, text: str) -> Pairs:
        lines = [line for line in text.split("\n") if line.strip(" \t")]
        if len(text) > MOST_TEXT or not 1 <= len(lines) <= MOST:
            raise BadValue([f"{printable(text)} has {len(lines)} headers in {len(text)} characters"])
        pairs = tuple(collected(lines, self._pair))
        names = [same(name) for name, _ in pairs]
        twice = [name for index, (name, _) in enumerate(pairs) if same(name) in names[:index]]
        if twice:
            raise BadValue(f"{printable(name)} is given twice" for name in twice)
        return pairs

    @staticmethod
    def _pair(line: str) -> tuple[str, str]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadValue([f"{printable(line)} has no colon"])
        if name_fault(name):
            raise BadValue([f"{printable(line)} does not begin with the name of a header that srcip may write"])
        value = value.strip(" \t")
        if fault := _value_fault(value):
            raise BadValue([f"{printable(line)} has a value that {fault}"])
        return name, value


def _value_fault(value: str) -> str | None:
    """Why this cannot be written as a header's value: what is refused here would end the init container later."""
    if not value:
        return "is empty"
    if len(value) > LONGEST_VALUE:
        return "is too long"
    return "is not plain text" if value_fault(value) else None
