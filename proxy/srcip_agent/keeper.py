"""The process with privilege: it is told which Pods to set up, waits for each one's sandbox, and sets it up once.

It looks for sandboxes only while a Pod waits for one. Of a Pod that is set up it holds the sandbox's process by a file
descriptor: when that ends, the Pod waits again, as kubelet may give it another sandbox. What it is told is checked
again; it takes nothing from anybody else. Each Pod is set up by a child, so that this process never leaves its own
namespaces.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from srcip_agent import sandbox, setup
from srcip_agent.channel import FOUND, NEW, Channel, Json
from srcip_agent.orders import Order, OrderError, plan_for
from srcip_agent.sandbox import Network, Sandbox
from srcip_agent.setup import Node
from srcip_proxy.plan import Plan

QUICK_S, SLOW_S = 0.02, 1.0
"""Between two looks for sandboxes: at first, and for Pods that have waited for HASTE_S."""
HASTE_S = 30.0
RETRY_S = (0.1, 0.5, 2.0, 10.0)
"""After an error or a refusal of the kernel's."""
CHILD_S = 60.0
"""A child that takes longer is killed."""
AT_ONCE = 8
"""Children at the same time."""


@dataclass
class Wanted:
    """A Pod that is to be set up, and how far that is."""

    order: Order
    plan: Plan
    since: float
    """When it began to wait for its sandbox (monotonic)."""
    at: float = 0.0
    """When to look again."""
    tries: int = 0
    place: Sandbox | None = None
    """The sandbox that is being set up, or is."""
    seen: float = 0.0
    """When that was found."""
    child: int = 0
    pipe: int = -1
    holding: int = -1
    """File descriptor of the sandbox's process (pidfd_open(2))."""
    done: Network | None = None
    """The network that has been set up."""
    said: bytes = field(default=b"", repr=False)


class Keeper:
    """All Pods of the node that were ordered."""

    def __init__(self, root: Path, node: Node, channel: Channel) -> None:
        self.root, self.node, self.channel = root, node, channel
        self.wanted: dict[str, Wanted] = {}
        self.events = selectors.DefaultSelector()
        self.events.register(channel, selectors.EVENT_READ, self._hear)

    def run(self) -> None:
        """Until the channel ends. Raises ChannelError, OSError."""
        while True:
            for key, _ in self.events.select(self._pause()):
                key.data()
            self._look()

    # what it is told

    def _hear(self) -> None:
        for message in self.channel.receive():
            uid = str(message.get("forget") or "")
            if uid:
                self._forget(uid)
            else:
                self._take(message)

    def _take(self, message: Json) -> None:
        order = Order(*(str(message.get(name) or "") for name in ("uid", "name", "plan")))
        known = self.wanted.get(order.uid)
        if known and known.order == order:
            return
        self._forget(order.uid)
        try:
            self.wanted[order.uid] = Wanted(order, plan_for(order), time.monotonic())
        except OrderError as error:
            self._tell(order, "refused", reason=error.reason, text=str(error))

    def _forget(self, uid: str) -> None:
        if wanted := self.wanted.pop(uid, None):
            self._let_go(wanted)
            self._end_child(wanted, kill=True)

    def _tell(self, order: Order, state: str, **more: object) -> None:
        self.channel.send({"uid": order.uid, "state": state, **more})

    # looking for sandboxes

    def _waiting(self) -> Iterator[Wanted]:
        return (each for each in self.wanted.values() if not each.child and each.done is None)

    def _pause(self) -> float | None:
        """How long nothing is to be done, unless something happens."""
        times = [each.at for each in self._waiting()] if self._room() else []  # else a child's end comes first
        times += [each.seen + CHILD_S for each in self.wanted.values() if each.child]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _room(self) -> int:
        """How many children more there may be."""
        return AT_ONCE - sum(1 for each in self.wanted.values() if each.child)

    def _look(self) -> None:
        now = time.monotonic()
        for each in [each for each in self.wanted.values() if each.child and now > each.seen + CHILD_S]:
            os.kill(each.child, signal.SIGKILL)
        room, due = self._room(), [each for each in self._waiting() if each.at <= now]
        if not (room and due):
            return
        places = sandbox.pods(self.root)
        nodes = self.node.network
        for each in due:
            each.at = now + (QUICK_S if now - each.since < HASTE_S else SLOW_S)
            cgroup = places.get(each.order.uid)
            if cgroup and room and (place := sandbox.find(cgroup, nodes)):
                room -= 1
                each.seen = now if each.place != place else each.seen
                each.place = place
                self._start(each)

    # setting up

    def _start(self, wanted: Wanted) -> None:
        assert wanted.place
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _child(wanted.plan, wanted.place, self.node, writing)
        os.close(writing)
        wanted.child, wanted.pipe, wanted.said = child, reading, b""
        self.events.register(reading, selectors.EVENT_READ, lambda: self._read(wanted))

    def _read(self, wanted: Wanted) -> None:
        if data := os.read(wanted.pipe, 65536):
            wanted.said += data
            return
        code = self._end_child(wanted)
        try:
            state, reason, text = json.loads(wanted.said)
        except ValueError:
            state, reason, text = "failed", "killed", f"the process that sets it up has ended with {code}"
        self._finish(wanted, state, reason, text)

    def _finish(self, wanted: Wanted, state: str, reason: str, text: str) -> None:
        assert wanted.place
        now = time.monotonic()
        if state == "attached":
            wanted.done, wanted.tries = wanted.place.network, 0
            self._tell(wanted.order, state, reason=reason, text=text, seconds=now - wanted.seen)
            self._hold(wanted)
        elif state == "waiting":
            wanted.at = now + QUICK_S
        else:
            wanted.at = now + RETRY_S[min(wanted.tries, len(RETRY_S) - 1)]
            wanted.tries += 1
            self._tell(wanted.order, state, reason=reason, text=text)

    def _end_child(self, wanted: Wanted, kill: bool = False) -> int:
        """Collect it, and forget its pipe; its exit code, or the signal as a negative number."""
        if not wanted.child:
            return 0
        if kill:
            os.kill(wanted.child, signal.SIGKILL)
        self.events.unregister(wanted.pipe)
        os.close(wanted.pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(wanted.child, 0)[1])
        wanted.child = 0
        return code

    # a sandbox's end

    def _hold(self, wanted: Wanted) -> None:
        assert wanted.place
        try:
            wanted.holding = os.pidfd_open(wanted.place.process)
        except OSError:
            self._over(wanted)
            return
        self.events.register(wanted.holding, selectors.EVENT_READ, lambda: self._over(wanted))
        with suppress(OSError):  # its number may be another one's already
            if sandbox.identity(sandbox.PROC / str(wanted.place.process) / "ns/net") == wanted.place.network:
                return
        self._over(wanted)

    def _over(self, wanted: Wanted) -> None:
        """The sandbox's process has ended: the Pod may get another sandbox, or go."""
        self._let_go(wanted)
        wanted.done, wanted.since, wanted.at = None, time.monotonic(), 0.0
        self._tell(wanted.order, "waiting")

    def _let_go(self, wanted: Wanted) -> None:
        if wanted.holding >= 0:
            self.events.unregister(wanted.holding)
            os.close(wanted.holding)
            wanted.holding = -1


def _child(plan: Plan, place: Sandbox, node: Node, pipe: int) -> None:
    """Set one Pod up, say how it went, and end."""
    code = 1
    try:
        os.write(pipe, json.dumps(_outcome(plan, place, node)).encode()[:65536])
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def _outcome(plan: Plan, place: Sandbox, node: Node) -> tuple[str, str, str]:
    """State, reason and text."""
    try:
        done = setup.set_up(plan, place, node)
        return "attached", NEW if done.is_new else FOUND, done.text
    except setup.NotYetError as error:
        return "waiting", "", str(error)
    except setup.RefusedError as error:
        return "refused", error.reason, str(error)[:4000]
    except OSError as error:
        return "failed", "error", str(error)[:4000]
