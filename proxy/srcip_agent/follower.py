"""The process without privilege: it follows the node's Pods and hands on what they ask for."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Sequence
from typing import IO

from srcip_agent.channel import Channel, Json
from srcip_agent.ledger import Ledger, Say
from srcip_agent.orders import LABEL, VALUE, Order, Refusal, of_pod
from srcip_kube.client import ApiError, Kube
from srcip_kube.watch import Listener, Watch

PODS = "/api/v1/pods"
LONGEST_PAUSE_S = 15.0
FIRST_PAUSE_S = 0.2


class Follower:
    """Keeps the ledger and the other process up to date with the Pods' objects."""

    def __init__(self, channel: Channel, ledger: Ledger, say: Say) -> None:
        self.channel, self.ledger, self.say = channel, ledger, say
        self.ready = threading.Event()
        """Set once the Pods have been listed."""

    def listed(self, pods: Sequence[Json]) -> None:
        """All Pods that there are."""
        there = {str(pod["metadata"]["uid"]) for pod in pods}
        for uid in [uid for uid in self.ledger.pods if uid not in there]:
            self._forget(uid)
        for pod in pods:
            self.changed(pod, False)
        self.ready.set()

    def changed(self, pod: Json, is_gone: bool) -> None:
        """One Pod as it is now."""
        found = None if is_gone else of_pod(pod)
        if isinstance(found, Order):
            if self.ledger.expect(found):
                self.channel.send({"uid": found.uid, "name": found.name, "plan": found.plan})
        elif isinstance(found, Refusal):
            self.ledger.refuse(found)
        else:
            self._forget(str(pod["metadata"]["uid"]))

    def _forget(self, uid: str) -> None:
        if self.ledger.forget(uid):
            self.channel.send({"forget": uid})

    def follow(self, kube: Kube, node: str) -> None:
        """Follow the API server's Pods of this node, for ever."""
        selectors = {"fieldSelector": f"spec.nodeName={node}", "labelSelector": f"{LABEL}={VALUE}"}
        fault, tries = "", 0

        def opened() -> None:
            nonlocal fault
            if fault:
                self.say("the API server answers again")
            fault = ""

        watch = Watch(kube, PODS, selectors, Listener(self.listed, self.changed, opened))
        while True:
            try:
                watch.follow()
                tries = 0
            except ApiError as error:
                tries += 1
                self.ledger.api_failures += 1
                if str(error) != fault:
                    self.say("the API server does not answer", error=str(error))
                fault = str(error)
                threading.Event().wait(pause(tries))

    def read(self, events: Iterable[str] | IO[str]) -> None:
        """Take watch events from a text instead, one JSON object a line: for a node without an API server."""
        self.ready.set()
        for line in filter(str.strip, events):
            event = json.loads(line)
            self.changed(event["object"], event["type"] == "DELETED")


def pause(tries: int) -> float:
    """Seconds until the next try: ever longer, and never the same for all nodes."""
    longer: float = FIRST_PAUSE_S * 2 ** min(tries - 1, 16)
    return min(LONGEST_PAUSE_S, longer) * random.uniform(0.8, 1.2)  # noqa: S311  spreads load only
