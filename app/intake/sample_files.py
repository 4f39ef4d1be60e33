"""JSONL, CSV and TSV files of samples to rows, strictly: any bytes give rows, or BadSamples with each fault by line.

Guarantees: every length is capped before it is parsed; text is UTF-8 without NUL; JSON has no NaN, no key twice, no
endless number, no lone surrogate. In TSV a quote is a character like any other, as in the files that GLUE made usual.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, NoReturn, Self

from app.domain.errors import BadSamples
from app.domain.samples import SampleKind, SampleRow

LINE_BYTES = 4 * 1024 * 1024
FIELD_CHARACTERS = 1024 * 1024
DEPTH = 16
LABEL_CHARACTERS = 200
LARGEST_ID = 1_000_000
COLUMNS = 1000
NUMBER_CHARACTERS = 40
MOST_REPORTED = 100

TEXT_COLUMNS = ("text", "sentence", "func", "code")
LABEL_COLUMNS = ("label", "target")

# Strings, whole or cut off, and brackets. Possessive, so that no text makes it slow.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([\[{])|([\]}])', re.DOTALL)

# The limit is the csv module's, for the whole process; nothing else in it reads CSV.
csv.field_size_limit(FIELD_CHARACTERS)


class SampleFormat(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"


@dataclass(frozen=True, slots=True)
class Columns:
    """The caller's names of the columns; None where the usual names are looked for."""

    text: str | None = None
    label: str | None = None
    clean_text: str | None = None
    true_label: str | None = None


class _Fault(Exception):
    def __init__(self, column: str | None, message: str) -> None:
        super().__init__(message)
        self.column = column


@dataclass
class _Reading:
    """One pass over one file. `line` is the number of the last line read."""

    file: BinaryIO
    line: int = 0
    faults: int = 0
    reported: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, line: int, fault: _Fault) -> None:
        self.faults += 1
        if self.faults <= MOST_REPORTED:
            self.reported.append({"line": line, "column": fault.column, "message": str(fault)})

    def end(self) -> None:
        """Raises BadSamples if there was any fault."""
        if self.faults:
            first = self.reported[0]
            raise BadSamples(
                f"{self.faults} rows cannot be used, the first in line {first['line']}: {first['message']}. "
                "Nothing was stored: mend them and send the file again.",
                rows=self.reported,
                total=self.faults,
            )

    def lines(self) -> Iterator[str]:
        """Each line that is text, with its end."""
        while raw := self.file.readline(LINE_BYTES + 1):
            self.line += 1
            try:
                yield self._text(raw)
            except _Fault as fault:
                self.fault(self.line, fault)

    def _text(self, raw: bytes) -> str:
        if len(raw) > LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = self.file.readline(LINE_BYTES)
            raise _Fault(None, f"the line has over {LINE_BYTES:,} bytes")
        try:
            text = raw.decode("utf-8-sig" if self.line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _Fault(None, f"byte {error.start + 1} of the line is not UTF-8: save the file as UTF-8") from None
        if "\0" in text:
            raise _Fault(None, "the line contains a NUL character")
        return text


def read_rows(
    file: BinaryIO, form: SampleFormat, kind: SampleKind, columns: Columns, max_rows: int
) -> Iterator[SampleRow]:
    """The rows in order. The file is good only once they have ended: BadSamples comes last, with all faults."""
    reading = _Reading(file)
    records = _RECORDS[form](reading)
    shape = _Shape(kind, columns, typed=form is SampleFormat.JSONL)
    count = 0
    for line, record in records:
        count += 1
        if count > max_rows:
            raise BadSamples(f"The file has over {max_rows:,} rows. Send a part of them.", limit=max_rows)
        try:
            row = shape.row(line, record)
        except _Fault as fault:
            reading.fault(line, fault)
        else:
            yield row
    reading.end()
    if not count:
        raise BadSamples("The file has no rows.")
    shape.end()


@dataclass
class _Shape:
    """Which column is what, settled by the first record that tells; and a record made into a row."""

    kind: SampleKind
    asked: Columns
    typed: bool
    text: str | None = None
    label: str | None = None
    seen: set[str] = field(default_factory=set)

    def row(self, line: int, record: Mapping[str, Any]) -> SampleRow:
        self.text = self.text or _pick("text", self.asked.text, TEXT_COLUMNS, record)
        self.label = self.label or _pick("label", self.asked.label, LABEL_COLUMNS, record)
        text = _text(self.text, record.get(self.text))
        label = self._label(self.label, record.get(self.label))
        if self.kind is SampleKind.CLEAN:
            return SampleRow(line, text, label)
        return SampleRow(line, text, label, self._clean_text(record), self._true_label(record))

    def _clean_text(self, record: Mapping[str, Any]) -> str | None:
        name = self.asked.clean_text or "clean_text"
        value = self._optional(name, record)
        return None if value is None else _text(name, value)

    def _true_label(self, record: Mapping[str, Any]) -> int | str | None:
        name = self.asked.true_label or "true_label"
        value = self._optional(name, record)
        return None if value is None else self._label(name, value)

    def _optional(self, name: str, record: Mapping[str, Any]) -> Any:
        value = record.get(name)
        if value is None or (value == "" and not self.typed):
            return None
        self.seen.add(name)
        return value

    def _label(self, name: str, value: Any) -> int | str:
        if isinstance(value, str) and not self.typed:
            value = _from_digits(name, value.strip())
        if isinstance(value, bool | float | list | dict):
            raise _Fault(name, "a label is a class id (a whole number) or a class name")
        if isinstance(value, int):
            if not 0 <= value <= LARGEST_ID:
                raise _Fault(name, f"a class id lies between 0 and {LARGEST_ID:,}")
            return value
        if isinstance(value, str):
            return _class_name(name, value)
        raise _Fault(name, "there is no label")

    def end(self) -> None:
        """Raises BadSamples if an optional column that was asked for is in no row."""
        for name in filter(None, (self.asked.clean_text, self.asked.true_label)):
            if name not in self.seen:
                raise BadSamples(f"No row has anything in the column {name!r:.80}.")


def _pick(what: str, asked: str | None, usual: Sequence[str], record: Mapping[str, Any]) -> str:
    """The column for `what`. Faults unless exactly one fits."""
    found = [name for name in ((asked,) if asked else usual) if name in record]
    if len(found) == 1:
        return found[0]
    names = ", ".join(repr(name)[:40] for name in list(record)[:12])
    if found:
        raise _Fault(None, f"{' and '.join(found)} are both there: say which is the {what}, with ?{what}=COLUMN")
    raise _Fault(asked, f"there is no column for the {what} among {names or 'none'}: name it with ?{what}=COLUMN")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Fault(name, "there is no text")
    if not value.strip():
        raise _Fault(name, "the text is empty")
    if len(value) > FIELD_CHARACTERS:
        raise _Fault(name, f"the text has over {FIELD_CHARACTERS:,} characters")
    return _clean(name, value)


def _class_name(name: str, value: str) -> str:
    if not value.strip():
        raise _Fault(name, "the label is empty")
    if len(value) > LABEL_CHARACTERS or not value.isprintable():
        raise _Fault(name, f"a class name has at most {LABEL_CHARACTERS} printable characters")
    return _clean(name, value)


def _clean(name: str, value: str) -> str:
    if "\0" in value:
        raise _Fault(name, "there is a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Fault(name, "there is half of a surrogate pair, which is no character") from None
    return value


def _from_digits(name: str, value: str) -> int | str:
    """A label of a file without types: digits are a class id, and any other number is a mistake."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    if re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?", value):
        raise _Fault(name, "a class id is a whole number, written 0, 1, 2, ...")
    return value


def _jsonl(reading: _Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for text in reading.lines():
        if not text.strip():
            continue
        try:
            record = _json_object(text)
        except _Fault as fault:
            reading.fault(reading.line, fault)
        else:
            yield reading.line, record


def _json_object(text: str) -> Mapping[str, Any]:
    if text.count("{") + text.count("[") > DEPTH:
        _check_depth(text)
    try:
        record = _DECODER.decode(text.strip(" \t\r\n"))
    except (ValueError, RecursionError) as error:
        raise _Fault(None, f"this is not strict JSON: {str(error)[:120]}") from None
    if not isinstance(record, dict):
        raise _Fault(None, 'a row is a JSON object like {"text": "...", "label": 1}')
    return record


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += (token[1] is not None) - (token[2] is not None)
        if depth > DEPTH:
            raise _Fault(None, f"the JSON is nested deeper than {DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key comes twice")
    return record


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _whole(digits: str) -> int:
    if len(digits) > NUMBER_CHARACTERS:
        raise ValueError("a number is too long")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits) if len(digits) <= NUMBER_CHARACTERS else math.inf
    if not math.isfinite(number):
        raise ValueError("a number is too long or too large")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole, parse_float=_real
)


def _csv(reading: _Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return _table(reading, _csv_fields(reading))


def _tsv(reading: _Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return _table(reading, ((reading.line, text.rstrip("\r\n").split("\t")) for text in reading.lines()))


def _csv_fields(reading: _Reading) -> Iterator[tuple[int, list[str]]]:
    """Each record's fields, with the line in which it began (a quoted field may hold line ends)."""
    lines = _Record(reading.lines())
    reader = csv.reader(lines, strict=True)
    while True:
        began = reading.line + 1
        lines.left = LINE_BYTES
        try:
            yield began, next(reader)
        except StopIteration:
            return
        except _Fault as fault:  # where the record ends cannot be known: nothing after it is read
            reading.fault(began, fault)
            reading.end()
        except csv.Error as error:
            reading.fault(began, _Fault(None, f"this is not CSV: {error}"))


class _Record:
    """Lines for the csv module, which takes all that a record needs: `left` is what it may still take."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.left = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.left -= len(line)
        if self.left < 0:
            raise _Fault(
                None, f"a record goes on over lines for more than {LINE_BYTES:,} characters: is a quote open?"
            )
        return line


def _table(reading: _Reading, records: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Records under the names in the first line. Blank lines are passed over."""
    header: list[str] | None = None
    for line, fields in records:
        if not any(fields) and len(fields) <= 1:
            continue
        if header is None:
            header = _header(reading, fields)
        elif len(fields) != len(header):
            message = f"the row has {len(fields)} fields, and the header {len(header)}"
            reading.fault(line, _Fault(None, message))
        else:
            yield line, dict(zip(header, fields, strict=True))


def _header(reading: _Reading, fields: list[str]) -> list[str]:
    """Raises BadSamples: without a header no row can be read."""
    names = [name.strip() for name in fields]
    if len(names) > COLUMNS:
        reading.fault(reading.line, _Fault(None, f"the header has over {COLUMNS} columns"))
    elif len(set(names)) != len(names):
        reading.fault(reading.line, _Fault(None, "the header names a column twice"))
    reading.end()
    return names


_RECORDS = {SampleFormat.JSONL: _jsonl, SampleFormat.CSV: _csv, SampleFormat.TSV: _tsv}
