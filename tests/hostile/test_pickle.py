"""Pickles that run code on load.

Sources: the pickle documentation's warning; CVE-2025-32434 (weights_only before PyTorch 2.6); arXiv 2508.19774 (load
paths that scanners miss); Trail of Bits' fickling (STACK_GLOBAL, INST, nested calls).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint_by_hand import torch_zip, zip_of

Refused = Callable[..., set[str]]


def call(module: str, name: str, argument: str) -> bytes:
    """Protocol 2: GLOBAL module name, (argument), REDUCE."""
    text = argument.encode()
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


def stack_global(module: str, name: str, argument: str) -> bytes:
    """Protocol 4: the names come from the stack, where a scan for GLOBAL does not see them."""
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + words + b"\x93\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."


def inst(module: str, name: str, argument: str) -> bytes:
    """Protocol 0: INST calls without REDUCE."""
    return f"(S'{argument}'\ni{module}\n{name}\n.".encode()


# Calls that scanners were shown to miss, or that reach code by a detour. picklescan: its advisories of 2025
# (CVE-2025-1716 pip; CVE-2025-10157 submodules of what is listed; CVE-2025-46417 sending data by DNS).
GADGETS = {
    "torch.storage": ("torch.storage", "_load_from_bytes", "a pickle in a pickle: CVE-2025-32434 and before"),
    "torch device": ("torch._utils", "_rebuild_device_tensor_from_numpy", "arXiv 2508.19774"),
    "torch sparse": ("torch._utils", "_rebuild_sparse_tensor", "PyTorch: unvalidated sparse indices"),
    "torch quantized": ("torch._utils", "_rebuild_qtensor", "PyTorch: weights_only allows it; plain weights lack it"),
    "torch wrapper": ("torch._utils", "_rebuild_wrapper_subclass", "PyTorch: weights_only allows it"),
    "torch untyped": ("torch", "UntypedStorage", "torch.serialization: storages without a type"),
    "torch meta": ("torch._utils", "_rebuild_meta_tensor_no_storage", "sizes without bytes"),
    "torch.hub": ("torch.hub", "load", "runs hubconf.py of a repository"),
    "torch.jit": ("torch.jit", "load", "TorchScript reads and writes files"),
    "torch collect_env": ("torch.utils.collect_env", "run", "picklescan advisories"),
    "torch config": ("torch.utils._config_module", "load_config", "picklescan advisories: pickle in a pickle"),
    "torch shapes": ("torch.fx.experimental.symbolic_shapes", "ShapeEnv", "picklescan advisories: evaluates text"),
    "torch guards": ("torch._dynamo.guards", "GuardBuilder", "picklescan advisories: evaluates text"),
    "numpy reconstruct": ("numpy.core.multiarray", "_reconstruct", "object arrays hold anything"),
    "numpy scalar": ("numpy.core.multiarray", "scalar", "scalar of dtype O unpickles its bytes"),
    "numpy testing": ("numpy.testing._private.utils", "runstring", "picklescan advisories"),
    "getattr": ("builtins", "getattr", "fickling: chains of attributes"),
    "compile": ("builtins", "compile", "pickle documentation"),
    "import_module": ("importlib", "import_module", "imports run code"),
    "codecs": ("_codecs", "encode", "hides words from a scan"),
    "operator": ("operator", "attrgetter", "CVE-2025-10157 and picklescan advisories"),
    "partial": ("functools", "partial", "a call that waits"),
    "timeit": ("timeit", "timeit", "picklescan advisories: runs text"),
    "cProfile": ("cProfile", "run", "picklescan advisories: runs text"),
    "pdb": ("bdb", "Bdb", "picklescan advisories: runs text"),
    "code": ("code", "InteractiveInterpreter", "picklescan advisories: runs text"),
    "doctest": ("doctest", "debug_script", "picklescan advisories: runs text"),
    "idlelib": ("idlelib.autocomplete", "AutoComplete", "picklescan advisories: evaluates text"),
    "pydoc": ("pydoc", "pipepager", "picklescan advisories: runs a command"),
    "pty": ("pty", "spawn", "runs a command"),
    "asyncio": ("asyncio.unix_events", "_UnixSubprocessTransport._start", "CVE-2025-10157"),
    "ctypes": ("ctypes", "CDLL", "loads a library"),
    "ssl": ("ssl", "get_server_certificate", "CVE-2025-46417: phones home"),
    "webbrowser": ("webbrowser", "open", "phones home"),
    "socket": ("socket", "create_connection", "phones home"),
    "logging": ("logging.config", "listen", "opens a port that takes code"),
    "io": ("io", "FileIO", "writes a file"),
    "shutil": ("shutil", "rmtree", "removes files"),
    "sys": ("sys", "exit", "ends the reader"),
    "dotted": ("torch", "_utils._rebuild_tensor_v2", "names with dots walk attributes from protocol 4 on"),
    "spaced": ("collections OrderedDict", "", "genops joins module and name by a blank"),
    "moved": ("torch._utils", "_rebuild_tensor_v2.__globals__", "walks from a listed function to all else"),
    "homograph": ("torch", "Float\u0405torage", "a letter that looks like S", ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(GADGETS))
def test_a_call_outside_the_list_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    module, name, source = GADGETS[case]
    assert source
    del good["model.safetensors"]
    found = refused(good | {"pytorch_model.bin": torch_zip(call(module, name, "x"))})
    assert found == ({"PK-GLOBAL"} if name.isascii() else {"PK-OPCODE"})


HEAD = b"\x80\x02"
LISTED = b"ccollections\nOrderedDict\n"
# Instructions by which names or sizes come in past a scan for GLOBAL. Source: CPython's pickletools and Lib/pickle.py;
# fickling; for lengths CPython's own limits (PEP 3154, PEP 574).
INSTRUCTIONS = {
    "protocol 0": (b"cos\nsystem\n(S'x'\ntR.", "PK-OPCODE"),
    "protocol 0 weights": (b"(dp0\n.", "PK-OPCODE"),
    "protocol 1": (b"\x80\x01}.", "PK-OPCODE"),
    "protocol 4": (b"\x80\x04}.", "PK-OPCODE"),
    "protocol 255": (b"\x80\xff}.", "PK-OPCODE"),
    "protocol twice": (HEAD + HEAD + b"}.", "PK-OPCODE"),
    "no protocol": (b"}.", "PK-OPCODE"),
    "OBJ": (HEAD + b"(" + LISTED + b"o.", "PK-OPCODE"),
    "NEWOBJ": (HEAD + LISTED + b")\x81.", "PK-OPCODE"),
    "NEWOBJ_EX": (HEAD + LISTED + b")}\x92.", "PK-OPCODE"),
    "EXT1": (HEAD + b"\x82\x01)R.", "PK-OPCODE"),
    "EXT2": (HEAD + b"\x83\x01\0)R.", "PK-OPCODE"),
    "EXT4": (HEAD + b"\x84\x01\0\0\0)R.", "PK-OPCODE"),
    "PERSID": (HEAD + b"Pstorage\n.", "PK-OPCODE"),
    "STACK_GLOBAL of memory": (HEAD + b"X\x02\0\0\0osq\0X\x06\0\0\0systemq\1h\0h\1\x93.", "PK-OPCODE"),
    "DUP": (HEAD + b"}2.", "PK-OPCODE"),
    "POP": (HEAD + b"}}0.", "PK-OPCODE"),
    "POP_MARK": (HEAD + b"}(1.", "PK-OPCODE"),
    "text PUT": (HEAD + b"}p99999999999\n.", "PK-OPCODE"),
    "text LONG of 5,000 digits": (HEAD + b"L" + b"9" * 5000 + b"L\n.", "PK-OPCODE"),
    "text INT": (HEAD + b"I01\n.", "PK-OPCODE"),
    "STRING with escapes": (HEAD + b"S'\\x6f\\x73'\n.", "PK-OPCODE"),
    "LONG4 of two gigabytes": (HEAD + b"\x8b\xff\xff\xff\x7f.", "PK-OPCODE"),
    "LONG4 below zero": (HEAD + b"\x8b\xff\xff\xff\xff.", "PK-OPCODE"),
    "BINUNICODE of four gigabytes": (HEAD + b"X\xff\xff\xff\xffx.", "PK-OPCODE"),
    "BINUNICODE8 of an exabyte": (HEAD + b"\x8d" + b"\xff" * 7 + b"\x0fx.", "PK-OPCODE"),
    "BINBYTES8": (HEAD + b"\x8e" + b"\xff" * 8 + b"x.", "PK-OPCODE"),
    "BYTEARRAY8": (HEAD + b"\x96" + b"\0" * 8 + b".", "PK-OPCODE"),
    "NEXT_BUFFER": (HEAD + b"\x97.", "PK-OPCODE"),
    "FRAME that lies": (HEAD + b"\x95" + b"\xff" * 8 + b"}.", "PK-OPCODE"),
    "SHORT_BINUNICODE": (HEAD + b"\x8c\x01a.", "PK-OPCODE"),
    "half a surrogate": (HEAD + b"}X\x03\0\0\0\xed\xa0\x80N.", "PK-CONTENT"),
    "broken after the payload": (HEAD + b"cos\nsystem\nX\x01\0\0\0x\x85R\xff\xff", "PK-GLOBAL"),
    "unknown instruction": (HEAD + b"\xfe.", "PK-OPCODE"),
    "two programs": (HEAD + b"}." + HEAD + b"}.", "PK-OPCODE"),
    "nothing": (b"", "PK-OPCODE"),
}


@pytest.mark.parametrize("case", sorted(INSTRUCTIONS))
def test_an_instruction_that_weights_do_not_need_is_refused(
    case: str, good: dict[str, bytes], refused: Refused
) -> None:
    program, rule = INSTRUCTIONS[case]
    del good["model.safetensors"]
    assert refused(good | {"pytorch_model.bin": torch_zip(program)}) == {rule}


def phones(port: int) -> bytes:
    return call("builtins", "exec", f"import socket; socket.create_connection(('127.0.0.1', {port}))")


def test_nobody_is_called_from_the_child(good: dict[str, bytes], refused_by_child: Refused, canary_port: int) -> None:
    """nullifAI (ReversingLabs, 2025): a payload first, a broken pickle after it."""
    del good["model.safetensors"]
    broken = phones(canary_port)[:-1] + b"\xff"
    assert refused_by_child(good | {"pytorch_model.bin": torch_zip(broken)}) == {"PK-GLOBAL"}


def programs(command: str) -> dict[str, tuple[bytes, str]]:
    return {
        "os.system": (call("os", "system", command), "PK-GLOBAL"),
        "posix.system": (call("posix", "system", command), "PK-GLOBAL"),
        "builtins.eval": (call("builtins", "eval", command), "PK-GLOBAL"),
        "pip.main": (call("pip._internal", "main", command), "PK-GLOBAL"),
        "runpy": (call("runpy", "_run_code", command), "PK-GLOBAL"),
        "torch.load again": (call("torch.serialization", "load", command), "PK-GLOBAL"),
        "near name": (call("torch", "FloatStorage.__class__", command), "PK-GLOBAL"),
        "near module": (call("torch._utils.", "_rebuild_tensor_v2", command), "PK-GLOBAL"),
        "stack global": (stack_global("os", "system", command), "PK-OPCODE"),
        "inst": (inst("os", "system", command), "PK-OPCODE"),
        "extension": (b"\x80\x02\x82\x01.", "PK-OPCODE"),
        "after a good end": (b"\x80\x02}." + call("os", "system", command), "PK-OPCODE"),
        "cut": (b"\x80\x02}", "PK-OPCODE"),
        "not a pickle": (b"hello", "PK-OPCODE"),
        "memo bomb": (b"\x80\x02" + b"(" * 10 + b"\x94." , "PK-OPCODE"),
        "object": (pickle.dumps({"a": {1, 2}}, protocol=4), "PK-OPCODE"),
    }  # fmt: skip


@pytest.mark.parametrize("case", sorted(programs("")))
def test_a_program_beyond_plain_weights_is_refused(
    case: str, good: dict[str, bytes], refused: Refused, canary: Path
) -> None:
    program, rule = programs(f"touch {canary}")[case]
    del good["model.safetensors"]
    assert refused(good | {"pytorch_model.bin": torch_zip(program)}) == {rule}


def test_a_hostile_pickle_beside_good_weights_is_still_refused(
    good: dict[str, bytes], refused: Refused, canary: Path
) -> None:
    program = call("os", "system", f"touch {canary}")
    assert refused(good | {"pytorch_model.bin": torch_zip(program)}) == {"PK-GLOBAL"}


@pytest.mark.parametrize(
    "name", ["state.bin", "training_args.pt", "deep/optimizer.pkl", "model.pkl", "data.joblib", "weights.npy"]
)
def test_other_pickles_are_refused_by_name(name: str, good: dict[str, bytes], refused: Refused) -> None:
    assert refused(good | {name: b"\x80\x02}."}) == {"FN-PICKLE"}


def containers(program: bytes) -> dict[str, tuple[bytes, str]]:
    """Wrappings in which another reader might find another pickle."""
    plain = torch_zip(b"\x80\x02}.")
    return {
        "bare pickle": (program, "PK-LEGACY"),
        "before 1.6": (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + program, "PK-LEGACY"),
        "pickle before the zip": (program + plain, "PK-LEGACY"),
        "bytes after the zip": (plain + program, "PK-LEGACY"),
        "compressed": (zip_of({"archive/data.pkl": b"\x80\x02}."}), "PK-LEGACY"),
        "second program": (torch_zip(b"\x80\x02}.", {"archive/code/x.py": b"1"}), "PK-CONTENT"),
        "two roots": (torch_zip(b"\x80\x02}.", {"other/data.pkl": program}), "PK-CONTENT"),
        "no program": (zip_of({"archive/version": b"3"}, 0), "PK-CONTENT"),
        "seven-zip": (b"7z\xbc\xaf\x27\x1c" + program, "PK-LEGACY"),
    }


@pytest.mark.parametrize("case", sorted(containers(b"")))
def test_odd_containers_are_refused(case: str, good: dict[str, bytes], refused: Refused, canary: Path) -> None:
    content, rule = containers(call("os", "system", f"touch {canary}"))[case]
    del good["model.safetensors"]
    assert refused(good | {"pytorch_model.bin": content}) == {rule}


@pytest.mark.parametrize("case", ["os.system", "stack global", "inst"])
def test_nothing_runs_in_the_child_either(
    case: str, good: dict[str, bytes], refused_by_child: Refused, canary: Path
) -> None:
    program, rule = programs(f"touch {canary}")[case]
    del good["model.safetensors"]
    assert refused_by_child(good | {"pytorch_model.bin": torch_zip(program)}) == {rule}
