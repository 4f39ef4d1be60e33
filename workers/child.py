"""What runs inside the sandboxed child: one verb on one request, then the end.

`main` confines the process, says how far that went, and only then is told the request; heavy libraries are imported
only inside the verb. `ahead` is for a process that is started before there is a request: it has imported them before.
It answers with a result or with one of the errors that an upload can cause; anything else ends it with a trace on
stderr and status 1, which the parent takes for a crash.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from app.domain.errors import LetheError, StorageFull
from workers.channel import Mouth
from workers.confine import Allowance, confine

Verb = Callable[[Mapping[str, Any], Mouth], Mapping[str, Any]]


def ahead(channel: int) -> None:
    """Entry of a child that may wait for its request."""
    with _imports():
        from workers import convert, treat  # noqa: F401, PLC0415
    main(channel)


def main(channel: int) -> None:
    """Entry of the child: `channel` is the descriptor of the message pipe."""
    mouth = Mouth(channel)
    line = sys.stdin.buffer.readline()
    if not line:
        _leave(0)  # it was started ahead, and nothing came
    bounds = json.loads(line)
    _move_to(bounds["home"])
    mouth.confined(confine(Allowance.from_dict(bounds), bounds["without"]))
    request = sys.stdin.buffer.readline()
    if not request:
        _leave(1)  # the parent is gone, or these layers are not enough for it
    _hold_lifeline(sys.stdin.buffer)
    try:
        mouth.result(VERBS[bounds["verb"]](json.loads(request), mouth))
    except LetheError as error:
        mouth.error(error)
    except MemoryError:
        mouth.out_of_memory()
    except BaseException as error:
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            traceback.print_exc()
            _leave(1)
        mouth.error(StorageFull("The storage is full."))
    _leave(0)


def _move_to(home: str) -> None:
    """The one place for what libraries write down."""
    os.environ |= {"HOME": home, "TMPDIR": home}
    tempfile.tempdir = None  # it may have been looked up before
    os.chdir(home)


def _leave(status: int) -> NoReturn:
    """At once: no destructor of an untrusted object runs, and no library's thread is waited for."""
    sys.stderr.flush()
    os._exit(status)


def _hold_lifeline(stdin: BinaryIO) -> None:
    """When the parent is gone its end of stdin closes: then this process and its group go too."""

    def wait() -> None:
        stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="lifeline").start()


def probe(_request: Mapping[str, Any], _mouth: Mouth) -> Mapping[str, Any]:
    """Whether what the other verbs are made of can be found and read from in here; without importing torch."""
    import app.intake.admit  # noqa: F401, PLC0415

    for name in ("torch", "transformers", "safetensors", "tokenizers"):
        found = find_spec(name)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(name)
        with Path(found.origin).open("rb"):
            pass
    return {}


def inspect(request: Mapping[str, Any], mouth: Mouth) -> Mapping[str, Any]:
    """One upload (`admit.Order`) to the files that workers load (`admit.Admission`)."""
    from app.intake.admit import Order, admit  # noqa: PLC0415 - imported behind the confinement

    return admit(Order.from_dict(request), _LateBench(), mouth.phase).to_dict()


def train(request: Mapping[str, Any], mouth: Mouth) -> Mapping[str, Any]:
    """Treat one admitted model with the engine; see `workers.treat`."""
    with _imports():
        from workers import treat  # noqa: PLC0415

    return treat.treat(request, mouth)


class _LateBench:
    """Imports torch at the first step that needs it: most hostile uploads are refused before."""

    def __getattr__(self, step: str) -> Any:
        with _imports():
            from workers.convert import TorchBench  # noqa: PLC0415

        return getattr(TorchBench(), step)


@contextlib.contextmanager
def _imports() -> Iterator[None]:
    """Without the search for garbage: an import leaves a million objects that stay, and to look through them again
    and again takes a fifth of its time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


VERBS: Mapping[str, Verb] = {"probe": probe, "inspect": inspect, "train": train}
