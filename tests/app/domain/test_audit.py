"""The chain of hashes: whatever is done to it afterwards is found."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.audit import NO_HASH, Entry, Head, canonical, cleaned, faults, written

FIELDS = [field.name for field in dataclasses.fields(Entry)]
TIMES = st.datetimes(timezones=st.just(UTC))
DETAILS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
SAID = st.fixed_dictionaries(
    {name: st.text(max_size=6) for name in ("tenant", "actor", "action", "subject")}
    | {"at": TIMES, "details": DETAILS}
)


def chain_of(said: list[dict[str, Any]]) -> list[Entry]:
    entries: list[Entry] = []
    for each in said:
        entries.append(Entry.after(head_of(entries), **each))
    return entries


def head_of(entries: list[Entry]) -> Head:
    return Head(entries[-1].seq, entries[-1].hash) if entries else Head(0, NO_HASH)


CHAINS = st.lists(SAID, min_size=1, max_size=6).map(chain_of)


@given(CHAINS)
def test_a_chain_is_whole_and_goes_through_each_of_its_heads(chain: list[Entry]) -> None:
    for length in range(len(chain) + 1):
        assert list(faults(chain, head_of(chain[:length]))) == []
    assert list(faults([])) == []


@given(CHAINS, st.data())
def test_any_single_edit_is_found(chain: list[Entry], data: st.DataObject) -> None:
    at, name = data.draw(st.integers(0, len(chain) - 1)), data.draw(st.sampled_from(FIELDS))
    old = getattr(chain[at], name)
    values = {"seq": st.integers(), "at": TIMES, "details": DETAILS}.get(name, st.text(max_size=64))
    new = data.draw(values.filter(lambda value: value != old))
    edited = [*chain[:at], dataclasses.replace(chain[at], **{name: new}), *chain[at + 1 :]]
    assert list(faults(edited, head_of(chain)))
    if name != "hash" or at < len(chain) - 1:
        assert list(faults(edited))


@given(CHAINS, st.data())
def test_an_edit_whose_hash_was_made_to_fit_is_found(chain: list[Entry], data: st.DataObject) -> None:
    """By the entry that follows, or by the exported head where it is the last."""
    at = data.draw(st.integers(0, len(chain) - 1))
    forged = dataclasses.replace(chain[at], actor=chain[at].actor + "x")
    forged = dataclasses.replace(forged, hash=forged.digest())
    assert list(faults([*chain[:at], forged, *chain[at + 1 :]], head_of(chain)))


@given(CHAINS, st.data())
def test_a_deletion_an_insertion_a_swap_and_a_cut_are_found(chain: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(chain) - 1))
    head = head_of(chain)
    assert list(faults([*chain[:at], *chain[at + 1 :]], head))
    assert list(faults([*chain[:at], chain[at], *chain[at:]], head))
    assert list(faults(chain[:at], head))
    other = data.draw(st.integers(0, len(chain) - 1))
    if other != at:
        swapped = list(chain)
        swapped[at], swapped[other] = chain[other], chain[at]
        assert list(faults(swapped, head))


@given(CHAINS, SAID)
def test_a_chain_that_was_made_anew_is_found_against_an_exported_head(chain: list[Entry], said: Any) -> None:
    anew = chain_of([said | {"actor": "somebody else"}] * len(chain))
    if anew != chain:
        assert list(faults(anew)) == []
        assert list(faults(anew, head_of(chain)))


def test_the_canonical_form_is_the_documented_one() -> None:
    value = {"é": '\n"', "a": [1, True, None, {"z": "", "Z": 0}]}
    assert canonical(value) == '{"a":[1,true,null,{"Z":0,"z":""}],"é":"\\n\\""}'.encode()
    at = datetime(2026, 11, 25, 4, tzinfo=timezone(timedelta(hours=1)))
    assert written(at) == "2026-11-25T03:00:00.000000Z"
    said: dict[str, Any] = {"tenant": "t", "actor": "a", "action": "x.y", "subject": "s/1", "details": {}}
    entry = Entry.after(Head(0, NO_HASH), at=at, **said)
    text = (
        '{"action":"x.y","actor":"a","at":"2026-11-25T03:00:00.000000Z","details":{},'
        f'"previous":"{NO_HASH}","seq":1,"subject":"s/1","tenant":"t"}}'
    )
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("value", [1.5, 2**53, {1: "x"}, b"x", ("x",), float("nan"), [object()], "\ud800"])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the encoder's own is one too
        canonical(value)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_made_fit(text: str) -> None:
    assert b"\\u0000" not in canonical(cleaned({text: [text]}))
