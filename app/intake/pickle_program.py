"""What a pickle of plain weights would make, worked out on stand-ins: no object of any library, no call, no import.

`pickle_opcodes` says which instructions there may be; this follows them on a stack of tuples, dicts and names, and
accepts one outcome: a dict of tensors by name, each within the bytes of its storage. A loader is then given nothing
that has not been walked through before: no list where it expects a tensor, no view beyond its storage, no view that
grows to more than the file holds. Source of the shapes: `torch._utils._rebuild_tensor_v2` and
`torch.serialization` (the persistent id of a storage).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DIMENSIONS = 8
STACK = 100_000
MEMO = 1_000_000  # the highest place; C readers make room up to it
# Storage class in `torch` -> bytes of one number.
STORAGES: Mapping[str, int] = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
}  # fmt: skip
ORDERED, TENSOR, PARAMETER = (
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
)  # fmt: skip
GLOBALS = frozenset({ORDERED, TENSOR, PARAMETER} | {f"torch {name}Storage" for name in STORAGES})


class NotWeights(Exception):
    """The program makes something else than tensors by name; the message says what."""


@dataclass(frozen=True, slots=True)
class Global:
    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`key` is the member data/KEY; it holds `count` numbers of `width` bytes."""

    kind: str
    key: str
    count: int

    @property
    def width(self) -> int:
        return STORAGES[self.kind]


@dataclass(frozen=True, slots=True)
class Tensor:
    storage: Storage
    elements: int

    @property
    def size(self) -> int:
        return self.elements * self.storage.width


class Ordered(dict[Any, Any]):
    """Stands for an OrderedDict, which alone may be given attributes."""


_MARK = object()


@dataclass
class Machine:
    """Takes the instructions one by one; `storages` gathers those that were named."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)

    def step(self, opcode: str, argument: Any) -> None:
        """Raises NotWeights."""
        try:
            _STEPS[opcode](self, argument)
        except (IndexError, KeyError, ValueError, TypeError):
            raise NotWeights(f"its instruction {opcode} has nothing fitting to work on") from None
        if len(self.stack) > STACK:
            raise NotWeights("its stack grows without an end")

    def result(self) -> dict[str, Tensor]:
        """What the program left: tensors by name. Raises NotWeights."""
        if len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            raise NotWeights("it does not end with one dict")
        for key, value in self.stack[0].items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise NotWeights("it holds something other than tensors by name")
        return dict(self.stack[0])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            if place <= 0:
                raise ValueError
            place -= 1
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def tuple_of(self, count: int) -> None:
        found = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(found)))

    def put(self, place: int) -> None:
        if self.stack[-1] is _MARK or place > MEMO or place in self.memo:
            raise ValueError
        self.memo[place] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int) or key in target:
                raise ValueError
            target[key] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError
        self.stack[-1].extend(items)

    def build(self) -> None:
        """Attributes: an OrderedDict of weights has its _metadata, and nothing else has any."""
        state = self.pop()
        if not isinstance(self.stack[-1], Ordered) or type(state) is not dict or set(state) != {"_metadata"}:
            raise ValueError

    def load_storage(self) -> None:
        word, kind, key, location, count = self.pop()
        fine = word == "storage" and isinstance(kind, Global) and isinstance(key, str) and isinstance(location, str)
        if not fine or type(count) is not int or count < 0:
            raise ValueError
        found = Storage(kind.name.removeprefix("torch ").removesuffix("Storage"), key, count)
        if found.kind not in STORAGES or self.storages.setdefault(key, found) != found:
            raise ValueError
        self.push(found)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise ValueError
        self.push(_CALLS[function.name](*arguments))


def _ordered() -> Ordered:
    return Ordered()


def _tensor(  # noqa: PLR0917 - the arguments of torch's own function
    storage: Any, offset: Any, size: Any, stride: Any, needs_gradient: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    numbers = [offset, *size, *stride]
    if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise ValueError
    if any(type(number) is not int or number < 0 for number in numbers) or len(size) != len(stride):
        raise ValueError
    if type(needs_gradient) is not bool or type(hooks) is not Ordered or hooks or metadata or len(size) > DIMENSIONS:
        raise ValueError
    elements = math.prod(size)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if elements and (last >= storage.count or elements > storage.count):
        raise NotWeights("a tensor of it reaches beyond its bytes")
    return Tensor(storage, elements)


def _parameter(data: Any, needs_gradient: Any, hooks: Any) -> Tensor:
    if not isinstance(data, Tensor) or type(needs_gradient) is not bool or type(hooks) is not Ordered or hooks:
        raise ValueError
    return data


_CALLS: Mapping[str, Callable[..., Any]] = {ORDERED: _ordered, TENSOR: _tensor, PARAMETER: _parameter}
_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda _machine, _argument: None,
    "STOP": lambda _machine, _argument: None,
    "MARK": lambda machine, _: machine.push(_MARK),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
        lambda machine, argument: machine.push(argument),
    ),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_marked()),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memo[place])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, place: machine.put(place)),
    "GLOBAL": lambda machine, name: machine.push(Global(name)),
    "BINPERSID": lambda machine, _: machine.load_storage(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
OPCODES = frozenset(_STEPS)
