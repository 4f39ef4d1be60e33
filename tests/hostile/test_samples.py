"""Sample files that cost far more than they weigh, or that two readers would split into other rows.

RFC 8259 is JSON, RFC 4180 is CSV; "measured" is CPython 3.11's own json and csv.
"""

from __future__ import annotations

import io
import tracemalloc

import pytest

from app.domain.errors import BadSamples
from app.domain.samples import SampleKind
from app.intake.sample_files import Columns, SampleFormat, read_rows

JSONL, CSV, TSV = SampleFormat
ROW = b'{"text":"a","label":1}\n'
HEAD = b"text,label\n"
TABS = b"text\tlabel\n"
MEMORY = 256 * 1024 * 1024


def inner(value: str) -> bytes:
    return b'{"text":"a","label":1,"x":' + value.encode() + b"}\n"


# Case -> format, file, source.
CASES: dict[str, tuple[SampleFormat, bytes, str]] = {
    "deep lists": (JSONL, inner("[" * 17 + "]" * 17), "RFC 8259 9: depth"),
    "deeper than the stack": (JSONL, inner("[" * 500_000), "measured: RecursionError"),
    "deep objects": (JSONL, inner('{"a":' * 500_000), "measured: RecursionError"),
    "NaN": (JSONL, inner("NaN"), "RFC 8259 6"),
    "-Infinity": (JSONL, inner("-Infinity"), "RFC 8259 6"),
    "1e999": (JSONL, inner("1e999"), "measured: becomes inf"),
    "4,300 digits": (JSONL, inner("9" * 4300), "CVE-2020-10735"),
    "4,301 digits": (JSONL, inner("9" * 4301), "CVE-2020-10735"),
    "a million digits": (JSONL, inner("0." + "9" * 1_000_000), "CVE-2020-10735"),
    "equal keys": (JSONL, b'{"text":"a","text":"b","label":1}\n', "RFC 8259 4"),
    "escaped equal keys": (JSONL, b'{"text":"a","te\\u0078t":"b","label":1}\n', "RFC 8259 4"),
    "equal keys within": (JSONL, inner('{"a":1,"a":2}'), "RFC 8259 4"),
    "half a surrogate": (JSONL, b'{"text":"\\ud800","label":1}\n', "RFC 8259 8.2"),
    "half a surrogate as label": (JSONL, b'{"text":"a","label":"\\udfff"}\n', "RFC 8259 8.2"),
    "a raw surrogate": (JSONL, b'{"text":"\xed\xa0\x80","label":1}\n', "RFC 3629: UTF-8 has none"),
    "an overlong letter": (JSONL, b'{"text":"\xc0\xaf","label":1}\n', "RFC 3629 10"),
    "beyond Unicode": (JSONL, b'{"text":"\xf4\x90\x80\x80","label":1}\n', "RFC 3629"),
    "a zero in the text": (JSONL, b'{"text":"a\\u0000","label":1}\n', "PostgreSQL: text has no NUL"),
    "a raw zero": (JSONL, b'{"text":"a\0","label":1}\n', "RFC 8259 7"),
    "a raw line end": (JSONL, b'{"text":"a\rb","label":1}\n', "RFC 8259 7"),
    "old line ends": (JSONL, b'{"text":"a","label":1}\r{"text":"b","label":1}\n', "one row here, two there"),
    "two rows in a line": (JSONL, b'{"text":"a","label":1}{"text":"b","label":1}\n', "streams of JSON without lines"),
    "a row over two lines": (JSONL, b'{"text":"a",\n"label":1}\n', "jsonlines.org"),
    "a byte order mark within": (JSONL, ROW + b"\xef\xbb\xbf" + ROW, "RFC 8259 8.1"),
    "UTF-16": (JSONL, ROW.decode().encode("utf-16"), "RFC 8259 8.1"),
    "UTF-32": (JSONL, ROW.decode().encode("utf-32"), "RFC 8259 8.1"),
    "a comment": (JSONL, b'{"text":"a","label":1} // x\n', "JSON5"),
    "a comma too many": (JSONL, b'{"text":"a","label":1,}\n', "JSON5"),
    "a line of 5 MB": (JSONL, b'{"text":"' + b"x" * 5_000_000 + b'","label":1}\n', "memory by a line"),
    "a text of 1 MB": (JSONL, b'{"text":"' + b"x" * 1_048_577 + b'","label":1}\n', "memory by a field"),
    "lists by the million": (JSONL, inner("[" + "[]," * 500_000 + "[]]") + b"x\n", "measured: 80 bytes for 3"),
    "a label that is true": (JSONL, b'{"text":"a","label":true}\n', "Python: True == 1"),
    "a label of 2**63": (JSONL, b'{"text":"a","label":9223372036854775808}\n', "int64"),
    "a label with a direction": (JSONL, b'{"text":"a","label":"\\u202eb"}\n', "CVE-2021-42574 (Trojan Source)"),
    "a label with an escape": (JSONL, b'{"text":"a","label":"\\u001b[2J"}\n', "CWE-150: terminals"),
    "nothing but lines": (JSONL, b"\n" * 200_000, "time by empty lines"),
    "an archive": (JSONL, b"PK\3\4" + bytes(1000), "the wrong file"),
    "an open quote": (CSV, HEAD + b'"a' + (b"x" * 1000 + b"\n") * 10_000, "RFC 4180: one field to the end of the file"),
    "one record without end": (CSV, HEAD + b'"\n' + b'","\n' * 1_300_000, "measured: 58 bytes for 4; one row of all memory"),
    "a million columns": (CSV, b"a," * 1_000_000 + b"b\n", "memory by columns"),
    "a million fields": (CSV, HEAD + b"," * 1_000_000 + b"\n", "memory by fields"),
    "a quote within": (CSV, HEAD + b'a"b"c,1\n"d"e,1\n', "RFC 4180 2.5: readers differ"),
    "a zero in CSV": (CSV, HEAD + b"a\0b,1\n", "measured: csv before 3.11 fails on it"),
    "a field of 1 MB": (CSV, HEAD + b"x" * 1_048_577 + b",1\n", "csv.field_size_limit"),
    "old line ends in CSV": (CSV, b"text,label\ra,1\rb,1\r", "one row here, three there"),
    "mixed line ends": (CSV, b"text,label\r\na,1\n\rb,1\r\n", "rows differ by reader"),
    "columns of one name": (CSV, b"text,label,text\na,1,b\n", "the last wins in csv.DictReader"),
    "columns that differ by blanks": (CSV, b"text,label, text\na,1,b\n", "one name here, two there"),
    "UTF-16 in CSV": (CSV, "text,label\na,1\n".encode("utf-16"), "what spreadsheets save as Unicode text"),
    "UTF-7": (CSV, b"+AHQAZQB4AHQ-,label\na,1\n", "readers that guess encodings"),
    "a byte order mark in a row": (CSV, HEAD + b"\xef\xbb\xbf\xff,1\n", "files put together"),
    "another separator": (CSV, b"text;label\na;1\n", "csv.Sniffer guesses"),
    "a separator line": (CSV, b"sep=;\ntext;label\n", "spreadsheets obey it"),
    "a million tabs": (TSV, TABS + b"\t" * 1_000_000 + b"\n", "memory by fields"),
    "a field too many": (TSV, TABS + b"a\t1\t2\n", "quotes are read by some: a tab within them"),
    "a number that is none": (TSV, TABS + b"a\t1e0\n", "pandas makes it 1.0"),
    "digits of another script": (TSV, TABS + "a\t\u0661.\n".encode() + b"b\t.\n", "int() takes all scripts"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_sample_file_with_a_catch_is_refused_by_its_lines(case: str) -> None:
    form, data, source = CASES[case]
    assert source
    tracemalloc.start()
    try:
        with pytest.raises(BadSamples) as caught:
            list(read_rows(io.BytesIO(data), form, SampleKind.CLEAN, Columns(), 1_000_000))
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert len(caught.value.message) > 15
    assert len(caught.value.details.get("rows", ())) <= 100


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A1", "@SUM(1)", "+1", "-1", "'); DROP TABLE samples; --"])
def test_what_is_only_dangerous_elsewhere_is_text(text: str) -> None:
    """OWASP, CSV injection: a formula is a text for a classifier, and no file of ours is a spreadsheet."""
    rows = list(read_rows(io.BytesIO(HEAD + f'"{text}",1\n'.encode()), CSV, SampleKind.CLEAN, Columns(), 10))
    assert [row.text for row in rows] == [text]
