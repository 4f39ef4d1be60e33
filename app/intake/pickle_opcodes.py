"""Reads a pytorch_model.bin without running it: the zip around it, then every instruction of its pickle.

A pickle is a program. The one that torch writes for plain weights uses few instructions and names few functions; only
such a program, walked through to its end on stand-ins, goes on to `torch.load(weights_only=True)`, and nothing else
is ever tried. Source of the lists: what `torch.save` writes for a state dict, PyTorch 1.6 to 2.13.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from app.domain.errors import ModelRefused
from app.intake.archives import MEMBERS
from app.intake.pickle_program import GLOBALS, OPCODES, Machine, NotWeights
from app.intake.rules import refusal, shown
from app.intake.zip_members import ZipMember, read_directory, unpacked

PROGRAM_BYTES = 8 * 1024 * 1024
INSTRUCTIONS = 1_000_000
PROTOCOL = 2  # the only one that torch.save uses unless asked
GROWTH = 2  # tensors that share bytes become tensors of their own; tied embeddings are one such pair
_MEMBER = re.compile(
    r"[^/]{1,255}/(data\.pkl|data/[0-9]{1,7}|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id)"
)


def check(file: Path, name: str) -> None:
    """Raises ModelRefused (PK-*, AR-*) unless the file is a zip of plain weights."""
    with file.open("rb") as handle:
        if handle.read(4) != b"PK\x03\x04":
            message = "it is not in PyTorch's zip format. Save it with PyTorch 1.6 or later, best as safetensors."
            raise refusal("PK-LEGACY", name, message)
        members = _members(handle, name)
        program = _program(handle, members, name)
    check_program(program, name, {path: member.size for path, member in members.items()})


def _members(handle: BinaryIO, name: str) -> dict[str, ZipMember]:
    """The members by their path below the one folder that holds them all."""
    members = read_directory(handle, name, "PK-LEGACY", 10 * MEMBERS)
    odd = [member.name for member in members if not _MEMBER.fullmatch(member.name)]
    folders = {member.name.partition("/")[0] for member in members}
    if odd or len(folders) != 1:
        raise refusal("PK-CONTENT", name, f"it holds {shown((odd or sorted(folders))[0])}, which plain weights lack.")
    if any(member.deflated for member in members):
        raise refusal("PK-LEGACY", name, "its members are compressed, which torch.save never does.")
    return {member.name.partition("/")[2]: member for member in members}


def _program(handle: BinaryIO, members: Mapping[str, ZipMember], name: str) -> bytes:
    order = members.get("byteorder")
    if order and (order.size > 8 or b"".join(unpacked(handle, order, name, "PK-LEGACY")) != b"little"):
        raise refusal("PK-CONTENT", name, "its numbers are not little-endian. Save it again on a common machine.")
    program = members.get("data.pkl")
    if program is None or program.size > PROGRAM_BYTES:
        raise refusal("PK-CONTENT", name, "its data.pkl is missing or too large.")
    return b"".join(unpacked(handle, program, name, "PK-LEGACY"))


def check_program(program: bytes, name: str, sizes: Mapping[str, int]) -> None:
    """Every instruction against OPCODES, every name against GLOBALS, and then what it would make against `sizes`:
    path in the zip -> bytes. Raises ModelRefused (PK-*)."""
    machine, last = Machine(), 0
    try:
        for count, (opcode, argument, place) in enumerate(pickletools.genops(program)):
            if opcode.name not in OPCODES or (opcode.name == "PROTO") != (count == 0):
                message = f"its pickle uses the instruction {opcode.name}, which plain weights do not need there."
                raise refusal("PK-OPCODE", name, f"{message} Save a plain state dict, best as safetensors.")
            if opcode.name == "PROTO" and argument != PROTOCOL:
                message = f"its pickle has protocol {argument}, and torch.save writes {PROTOCOL}. Save it again."
                raise refusal("PK-OPCODE", name, message)
            if opcode.name == "GLOBAL" and argument not in GLOBALS:
                message = f"its pickle names {shown(argument)}, which plain weights do not need."
                raise refusal("PK-GLOBAL", name, f"{message} Treat this file as an attack unless you wrote it.")
            if count >= INSTRUCTIONS:
                raise refusal("PK-CONTENT", name, "its pickle is too long for plain weights.")
            machine.step(opcode.name, argument)
            last = place or 0
        if last != len(program) - 1:
            raise refusal("PK-OPCODE", name, "bytes follow the end of its pickle. Save it again.")
        _check_sizes(machine, sizes)
    except ModelRefused:
        raise
    except NotWeights as error:
        raise refusal("PK-CONTENT", name, f"{error}. Save a plain state dict, best as safetensors.") from None
    except Exception as error:  # pickletools raises many kinds on damaged input
        raise refusal("PK-OPCODE", name, f"its pickle is damaged ({shown(error)}). Save it again.") from None


def _check_sizes(machine: Machine, sizes: Mapping[str, int]) -> None:
    """Raises NotWeights unless each storage is a member of exactly its size, and the tensors are not far more."""
    tensors = machine.result().values()
    stored = 0
    for storage in machine.storages.values():
        stored += storage.count * storage.width
        if sizes.get(f"data/{storage.key}") != storage.count * storage.width:
            raise NotWeights(f"its storage {shown(storage.key)} is not there in its size")
    if sum(tensor.size for tensor in tensors) > GROWTH * stored:
        raise NotWeights("its tensors share bytes so often that they would grow far beyond the file")
