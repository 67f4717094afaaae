"""A network in memory that delivers late, in pieces, or not at all: sockets and a selector for `Server`."""

from __future__ import annotations

import socket
from selectors import EVENT_READ, EVENT_WRITE
from types import SimpleNamespace

from streamrnn.context import Net


class Wire:
    """A connection between a client, which uses `write` and `read`, and the server's socket."""

    family = socket.AF_UNIX

    def __init__(self, net):
        self.net = net
        self.to_server, self.arrived = bytearray(), bytearray()
        self.to_client, self.got = bytearray(), bytearray()
        self.is_broken = self.client_closed = self.server_closed = False

    # the client's end
    def write(self, data):
        if not self.is_broken:
            self.to_server += data

    def read(self):
        """Whole lines that have come."""
        *lines, rest = bytes(self.got).split(b"\n")
        self.got = bytearray(rest)
        return lines

    def leave(self):
        self.client_closed = True

    @property
    def is_over(self):
        return self.is_broken or (self.server_closed and not self.to_client)

    # the server's end
    def recv(self, size):
        if self.is_broken and not self.arrived:
            raise ConnectionResetError
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        if not data and not (self.client_closed and not self.to_server):
            raise BlockingIOError
        return data

    def send(self, data):
        if self.is_broken:
            raise BrokenPipeError
        taken = self.net.rng.randrange(len(data) + 1) if self.net.rng.random() < 0.1 else len(data)
        if taken == 0:
            raise BlockingIOError
        self.to_client += data[:taken]
        return taken

    def shutdown(self, how):
        pass

    def setblocking(self, blocking):
        pass

    def close(self):
        self.server_closed = True

    @property
    def is_readable(self):
        return bool(self.arrived) or self.is_broken or (self.client_closed and not self.to_server)

    def move(self, rng):
        """Some of what is on its way arrives; now and then the connection breaks."""
        for way, there in ((self.to_server, self.arrived), (self.to_client, self.got)):
            count = rng.choice([0, len(way), rng.randrange(len(way) + 1)])
            there += way[:count]
            del way[:count]
        if rng.random() < self.net.breaks:
            self.snap(rng)

    def snap(self, rng):
        """The connection breaks: what is on its way is lost, at times what had arrived too."""
        self.is_broken = True
        self.got += self.to_client[
            : rng.choice([len(self.to_client), rng.randrange(len(self.to_client) + 1)])
        ]
        self.to_server.clear()
        self.to_client.clear()
        if rng.random() < 0.5:
            self.arrived.clear()


class Listening:
    def __init__(self):
        self.waiting = []

    def accept(self):
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0), None

    def setblocking(self, blocking):
        pass

    def close(self):
        self.waiting.clear()

    @property
    def is_readable(self):
        return bool(self.waiting)


class SimNet(Net):
    """The network of one life of a server; `breaks` is how likely a connection breaks in a round."""

    def __init__(self, rng, breaks=0.02):
        self.rng, self.breaks = rng, breaks
        self.listening, self.wires = {}, []

    def connect(self, name):
        if name not in self.listening:
            return None
        wire = Wire(self)
        self.wires.append(wire)
        self.listening[name].waiting.append(wire)
        return wire

    def end(self):
        """The server has died."""
        for wire in self.wires:
            if not wire.is_broken:
                wire.snap(self.rng)

    def listen_unix(self, path):
        self.listening[path.name] = Listening()
        return self.listening[path.name]

    def file_id(self, path):
        return None

    def selector(self):
        return Selector(self)


class Selector:
    def __init__(self, net):
        self.net, self.keys = net, {}

    def register(self, fileobj, events, data):
        self.keys[fileobj] = (events, data)

    modify = register

    def unregister(self, fileobj):
        del self.keys[fileobj]

    def select(self, timeout):
        for wire in self.net.wires:
            wire.move(self.net.rng)
        ready = []
        for fileobj, (events, data) in self.keys.items():
            found = EVENT_READ * (bool(events & EVENT_READ) and fileobj.is_readable) | events & EVENT_WRITE
            if found:
                ready.append((SimpleNamespace(data=data), found))
        self.net.rng.shuffle(ready)
        return ready

    def close(self):
        self.keys.clear()
