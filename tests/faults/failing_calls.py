"""System calls of a process that fail as they do on a full or broken disk, or at which it is killed.

A child asks the kernel to hand its writing calls to its parent (seccomp's user notifications, `seccomp_unotify(2)`),
which lets each go on but for those that are to fail. So the n-th call that changes a folder can be made to fail,
whichever library makes it, for n = 1, 2, 3, … as SQLite's tests do: a real process, real calls, real codes. Linux on
x86-64.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Numbers of x86-64. What each call changes: the path at an argument (with that of its folder), or an open file.
_OPENAT = 257
_PATHS = {_OPENAT: ("open", 0, 1), 82: ("rename", None, 1), 264: ("rename", 2, 3), 316: ("rename", 2, 3)}
_PATHS |= {83: ("mkdir", None, 0), 258: ("mkdir", 0, 1)}
_PATHS |= {87: ("remove", None, 0), 84: ("remove", None, 0), 263: ("remove", 0, 1)}
_FILES = {1: "write", 20: "write", 18: "write", 296: "write", 74: "fsync", 75: "fsync", 77: "truncate"}
_FILES |= {285: "fallocate", 40: "write", 326: "write"}
#: Calls whose changed file is not the first argument: copy_file_range's third.
_FILE_ARGUMENT = {326: 2}
#: What a full disk lets pass: a name is changed without room.
_NEEDS_NO_ROOM = ("rename", "truncate")

_AT_FDCWD = 0xFFFFFF9C
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PR_SET_NO_NEW_PRIVS, _SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER = 38, 317, 1, 8
_ALLOW, _NOTIFY, _KILL = 0x7FFF0000, 0x7FC00000, 0x80000000
_AUDIT_ARCH_X86_64 = 0xC000003E
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1


def why_not() -> str | None:
    """Say why calls cannot be made to fail on this machine; None where they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "system calls are made to fail on Linux, x86-64"
    ended = os.fork()
    if ended == 0:
        code = 1
        with suppress(OSError):
            os.close(_listener())
            code = 0
        os._exit(code)
    return None if os.waitpid(ended, 0)[1] == 0 else "the kernel hands over no system calls here (seccomp)"


@dataclass(frozen=True, kw_only=True)
class Failing:
    """Which calls fail.

    Attributes
    ----------
    at : the number of the first one, from 1; 0: none.
    number : errno, or a signal.
    kills : True: the process gets the signal in the moment of the call (SIGKILL: in place of it); what removes
        something counts, too.
    lasting : True: all later ones that need room fail, too; False: this one only.
    folders : only calls that change these, or something below them, count.
    uncounted : texts; calls on paths that hold one of them do not count either, and fail only with ``lasting``.
    """

    at: int
    number: int
    kills: bool = False
    lasting: bool = False
    folders: Sequence[str]
    uncounted: Sequence[str] = ()


@dataclass
class Overseer:
    """The parent's side: decides on each call until the child has ended.

    Attributes
    ----------
    counted : each call below the folders that counts, what it was and on what.
    failed : those of them that were made to fail.
    """

    failing: Failing
    counted: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    _child: int = 0

    def oversee(self, listener: int, child: int) -> None:
        """Answer the kernel until the child is gone."""
        self._child = child
        gone = os.pidfd_open(child)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(gone, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll())
                if ready.get(listener, 0) & select.POLLIN:
                    self._answer(listener)
                elif gone in ready:
                    return
                elif listener in ready:
                    poll.unregister(listener)
        finally:
            os.close(gone)

    def _answer(self, listener: int) -> None:
        said = bytearray(80)
        with suppress(FileNotFoundError):  # the thread was killed meanwhile
            fcntl.ioctl(listener, _RECEIVE, said)
            ticket, thread, _, call, _, _, *arguments = struct.unpack("=QIIiIQ6Q", said)
            fails = self._decide(thread, call, arguments)
            if fails and self.failing.kills:
                os.kill(self._child, self.failing.number)
                fails = False
            error, flags = (-self.failing.number, 0) if fails else (0, _CONTINUE)
            fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", ticket, 0, error, flags))

    def _decide(self, thread: int, call: int, arguments: Sequence[int]) -> bool:
        what = _changed(thread, call, arguments)
        if what is None or not any(f"{what[1]}/".startswith(f"{folder}/") for folder in self.failing.folders):
            return False
        if what[0] == "remove" and not self.failing.kills:
            return False
        at, before = self.failing.at, len(self.counted)
        counts = not any(text in f"{what[1]}/" for text in self.failing.uncounted)
        if counts:
            self.counted.append(what)
        lasts = self.failing.lasting and 0 < at <= before and what[0] not in _NEEDS_NO_ROOM
        if (counts and at == before + 1) or lasts:
            self.failed.append(what)
            return True
        return False


def hand_over_calls(channel: socket.socket) -> None:
    """Have this process' writing calls decided by whoever is at the other end of a Unix socket."""
    listener = _listener()
    channel.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)


def received_listener(channel: socket.socket) -> int:
    """Take what `hand_over_calls` sends."""
    _, files, _, _ = socket.recv_fds(channel, 1, 1)
    return files[0]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _listener() -> int:
    """Install the filter in this process; returns the file on which the kernel tells of calls."""
    calls = sorted({*_PATHS, *_FILES})
    # Load the architecture, kill others; load the number of the call; each match jumps to the end.
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, _AUDIT_ARCH_X86_64), (0x06, 0, 0, _KILL), (0x20, 0, 0, 0)]
    code += [(0x15, len(calls) - place, 0, call) for place, call in enumerate(calls)]
    code += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _NOTIFY)]
    packed = b"".join(struct.pack("=HBBI", *line) for line in code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _Program(len(code), packed)
    listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


def _changed(thread: int, call: int, arguments: Sequence[int]) -> tuple[str, str] | None:
    """Say what a call is about to change; None where that is nothing on a disk."""
    with suppress(OSError):
        if call in _FILES:
            file = arguments[_FILE_ARGUMENT.get(call, 0)] & 0xFFFFFFFF
            return _FILES[call], str(Path(f"/proc/{thread}/fd/{file}").readlink())
        name, folder, path = _PATHS[call]
        if call == _OPENAT and not arguments[2] & _WRITING:
            return None
        text = _text(thread, arguments[path])
        if not text.startswith("/"):
            where = _AT_FDCWD if folder is None else arguments[folder] & 0xFFFFFFFF
            base = f"/proc/{thread}/cwd" if where == _AT_FDCWD else f"/proc/{thread}/fd/{where}"
            text = str(Path(base).readlink() / text)
        return name, text + ("/" if call == _OPENAT and arguments[2] & os.O_DIRECTORY else "")
    return None


def _text(thread: int, address: int) -> str:
    """Read a path in the memory of a thread."""
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        # A path may end shortly before memory that is not there.
        data = b""
        while b"\0" not in data and len(data) < 4096:
            piece = memory.read(min(256, 4096 - (address + len(data)) % 4096))
            if not piece:
                break
            data += piece
    return os.fsdecode(data.split(b"\0", 1)[0])
