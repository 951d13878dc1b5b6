"""The kinds of values that are about HTTP headers: see values.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srcip_proxy.headers import LONGEST_NAME, TLVS, Pairs, name_fault, same
from srcip_webhook.pods import shown
from srcip_webhook.values import MAX_TEXT, BadValue, each

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
            raise BadValue([f"{shown(item)} is not known"])
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
            raise BadValue([f"{shown(text)} is not the name of a header that srcip may write"])
        return text


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
            raise BadValue([f"{shown(twice[0])} is there twice"])
        return pairs

    @staticmethod
    def _pair(item: str) -> tuple[str, str]:
        tlv, _, name = item.partition("=")
        if tlv not in TLVS:
            raise BadValue([f"{shown(item)} begins with no known TLV"])
        return tlv, HeaderName().parse(name)


@dataclass(frozen=True)
class NotYet:
    """A value that will be read by a later version."""

    allowed: str = "nothing: not yet"

    @property
    def schema(self) -> dict[str, Any]:
        return {"not": {}}

    def parse(self, text: str) -> None:
        raise BadValue([f"{shown(text)} is not there yet"])
