"""A child that is in an attacker's hands: each function is one way out. It returns what it got hold of, or raises."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workers import child
from workers.channel import Mouth

libc = ctypes.CDLL(None, use_errno=True)
IO_URING_SETUP = 425  # on every architecture
PTRACE_SEIZE = 0x4206
F_SETSIG = 10
CLONE_NEWNS = 0x00020000
SHM_RDONLY = 0o10000
PR_SET_PDEATHSIG = 1
Request = Mapping[str, Any]


def main(channel: int) -> None:
    child.VERBS = {name: _attempt(attack) for name, attack in globals().items() if callable(attack)}
    child.main(channel)


def _attempt(attack: Callable[[Request], object]) -> child.Verb:
    def attempt(request: Request, _mouth: Mouth) -> Mapping[str, Any]:
        try:
            return {"got": str(attack(request))}
        except OSError as error:
            return {"blocked": str(error)}

    return attempt


def succeeded(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def tcp(request: Request) -> object:
    with socket.create_connection(("127.0.0.1", request["tcp"]), timeout=5):
        return "a connection"


def udp(request: Request) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        return out.sendto(b"x", ("127.0.0.1", request["udp"]))


def abstract_socket(request: Request) -> object:
    with socket.socket(socket.AF_UNIX) as out:
        out.connect("\0" + request["abstract"])
        return "a connection"


def socket_file(request: Request) -> object:
    with socket.socket(socket.AF_UNIX) as out:
        out.connect(request["socket_file"])
        return "a connection"


def password_file(_request: Request) -> object:
    return Path("/etc/passwd").read_text()[:10]


def files_of_a_sibling(request: Request) -> object:
    return (Path(request["sibling"]) / "weights").read_text()


def folders_of_the_worker(request: Request) -> object:
    return list(Path(request["sibling"]).iterdir())


def write_outside(request: Request) -> object:
    return (Path(request["sibling"]) / "weights").write_text("changed")


def make_a_file_outside(request: Request) -> object:
    return (Path(request["sibling"]) / "new").write_text("new")


def remove_outside(request: Request) -> object:
    return (Path(request["sibling"]) / "weights").unlink()


def change_its_input(request: Request) -> object:
    return (Path(request["inputs"]) / "config").write_text("changed")


def link_among_the_results(request: Request) -> object:
    return (Path(request["out"]) / "model").symlink_to("/etc/passwd")


def truncate_outside(request: Request) -> object:
    return os.truncate(Path(request["sibling"]) / "weights", 0)


def open_up_a_file(request: Request) -> object:
    return (Path(request["sibling"]) / "weights").chmod(0o777)


def run_a_program(_request: Request) -> object:
    """In place of this process: no child of its own is needed. What it leaves is an end without an answer."""
    os.execv("/bin/true", ["true"])


def fork_bomb(_request: Request) -> object:
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)
    return "children"


def trace_the_parent(_request: Request) -> object:
    return succeeded(libc.ptrace(PTRACE_SEIZE, os.getppid(), None, None))


def memory_of_the_parent(request: Request) -> object:
    """By the system call for it."""
    length = request["length"]
    here = ctypes.create_string_buffer(length)
    mine = (ctypes.c_size_t * 2)(ctypes.addressof(here), length)
    theirs = (ctypes.c_size_t * 2)(request["address"], length)
    succeeded(libc.process_vm_readv(os.getppid(), mine, 1, theirs, 1, 0))
    return here.raw.decode()


def memory_through_procfs(request: Request) -> object:
    with Path(f"/proc/{os.getppid()}/mem").open("rb", buffering=0) as memory:
        memory.seek(request["address"])
        return memory.read(request["length"]).decode()


def environment_through_procfs(_request: Request) -> object:
    return Path(f"/proc/{os.getppid()}/environ").read_bytes()[:5]


def descriptors_through_procfs(request: Request) -> object:
    """A file that the parent holds open."""
    return Path(f"/proc/{os.getppid()}/fd/{request['descriptor']}").read_text()


def signal_the_parent(_request: Request) -> object:
    return os.kill(os.getppid(), signal.SIGURG)


def signal_by_descriptor(_request: Request) -> object:
    """The kernel sends the signal when the pipe has something to read."""
    out, into = os.pipe()
    fcntl.fcntl(out, fcntl.F_SETOWN, os.getppid())
    fcntl.fcntl(out, F_SETSIG, signal.SIGURG)
    fcntl.fcntl(out, fcntl.F_SETFL, os.O_ASYNC)
    return os.write(into, b"x")


def limits_of_the_parent(_request: Request) -> object:
    return resource.prlimit(os.getppid(), resource.RLIMIT_CORE)


def shared_memory(request: Request) -> object:
    libc.shmat.restype = ctypes.c_ssize_t
    place = succeeded(libc.shmat(succeeded(libc.shmget(request["shared"], 0, 0)), None, SHM_RDONLY))
    return ctypes.string_at(place, 6).decode()


def io_uring(_request: Request) -> object:
    return succeeded(libc.syscall(IO_URING_SETUP, 1, bytes(120)))


def watch_files(_request: Request) -> object:
    return succeeded(libc.inotify_init1(0))


def new_mounts(_request: Request) -> object:
    return succeeded(libc.unshare(CLONE_NEWNS))


def outlive_the_worker(_request: Request) -> object:
    return succeeded(libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0))


def use_what_is_given(request: Request) -> object:
    """No way out: what an honest child does."""
    heard: list[str] = []
    thread = threading.Thread(target=lambda: heard.append("a thread"))
    thread.start()
    thread.join()
    out = Path(request["out"]) / "folder"
    out.mkdir()
    with tempfile.NamedTemporaryFile("w") as scratch:
        scratch.write("scratch")
    (out / "first").write_text("result")
    (out / "first").rename(out / "renamed")
    return f"{(Path(request['inputs']) / 'config').read_text()} and {heard[0]}"
