"""Attacks on how a request is framed and read, byte by byte. In all of them a request that is hidden in another one
is never answered as one of its own, nothing is a 5xx, and the API goes on (see `unhurt` in conftest.py)."""

from __future__ import annotations

import contextlib
import json
import re
import socket

import pytest

from tests.hostile.raw_http import AUTH, LAST, SMUGGLED, Answer, Wire, everything, parse, request

JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
EMPTY = b"0\r\n\r\n"


def only_refused(answers: list[Answer]) -> None:
    """One refusal, and the connection was closed on it: neither what was hidden nor LAST was answered."""
    assert [answer.status for answer in answers] == [400]
    assert answers[0].problem["code"] == "bad-request"
    assert answers[0].headers["connection"] == "close"


def not_smuggled(answers: list[Answer]) -> None:
    assert all(b'"lethe"' not in answer.body for answer in answers), answers


# Two readings of where a request ends


def test_content_length_and_chunked(wire: Wire) -> None:
    """CL.TE request smuggling: RFC 9112, section 6.1; CWE-444."""
    body = EMPTY + SMUGGLED
    only_refused(
        wire.exchange(request("POST /v1/jobs", JSON, f"Content-Length: {len(body)}", CHUNKED, body=body) + LAST)
    )


def test_chunked_and_content_length(wire: Wire) -> None:
    """TE.CL request smuggling: RFC 9112, section 6.1; CWE-444."""
    body = f"{len(SMUGGLED):x}\r\n".encode() + SMUGGLED + b"\r\n" + EMPTY
    only_refused(wire.exchange(request("POST /v1/jobs", JSON, CHUNKED, "Content-Length: 4", body=body) + LAST))


@pytest.mark.parametrize(
    "line",
    [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        'Transfer-Encoding: "chunked"',
        "Transfer-Encoding: chunked\x00",
        "Transfer-Encoding:",
        " Transfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
    ],
)
def test_obscured_transfer_encoding(wire: Wire, line: str) -> None:
    """TE.TE: a coding that one server reads and the other does not. CVE-2019-16276, CVE-2020-7238, CVE-2024-1135."""
    head = f"POST /v1/jobs HTTP/1.1\r\n{line}\r\nHost: a\r\nContent-Length: 5\r\n{AUTH}\r\n\r\n"
    only_refused(wire.exchange(head.encode("latin-1") + EMPTY + SMUGGLED + LAST))


def test_folded_transfer_encoding(wire: Wire) -> None:
    """A coding on a continuation line (obs-fold): RFC 9112, section 5.2; CVE-2022-32213."""
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: a\r\n{AUTH}\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n"
    )
    only_refused(wire.exchange(head.encode() + EMPTY + SMUGGLED + LAST))


def test_folded_header_is_one_header(wire: Wire) -> None:
    """A folded line cannot become a line of its own: RFC 9112, section 5.2."""
    answer = wire.one("POST /v1/jobs", JSON, "X: y\r\n Content-Length: 99999", body=b"{}")
    assert answer.status == 422


@pytest.mark.parametrize("order", [(2, 60), (60, 2)])
def test_two_content_lengths(wire: Wire, order: tuple[int, int]) -> None:
    """CL.CL: RFC 9110, section 8.6; CVE-2018-7068."""
    lines = [f"Content-Length: {length}" for length in order]
    only_refused(wire.exchange(request("POST /v1/jobs", JSON, *lines, body=b"{}" + SMUGGLED) + LAST))


@pytest.mark.parametrize(
    "value", ["+2", "-2", "2 2", "0x2", "2.0", "2e0", "", "2,60", "2;", "two", "1_0", "9" * 30, "-1", "\xb2"]
)
def test_content_length_that_is_no_number(wire: Wire, value: str) -> None:
    """What a lenient parser takes for a number: RFC 9110, section 8.6; CVE-2018-16844, CVE-2022-24801."""
    only_refused(
        wire.exchange(request("POST /v1/jobs", JSON, f"Content-Length: {value}", body=b"{}" + SMUGGLED) + LAST)
    )


@pytest.mark.parametrize(
    "size", ["f" * 400, "-1", "+2", "0x2", "1_0", "g", " 2", "", "2 2", "\u0662".encode().decode("latin-1")]
)
def test_chunk_size_that_is_no_number(wire: Wire, size: str) -> None:
    """Overflow and lenient reading of a chunk's size: CVE-2013-2028, CVE-2019-20372, CVE-2024-6827."""
    body = f"{size}\r\n{{}}\r\n".encode("latin-1") + EMPTY + SMUGGLED
    answers = wire.exchange(request("POST /v1/jobs", JSON, CHUNKED, body=body) + LAST)
    only_refused(answers)


def test_chunk_size_beyond_all_bounds(hasty: Wire) -> None:
    """A size past 64 bits swallows what follows, and runs into the deadline: CVE-2013-2028; CWE-190."""
    answers = hasty.exchange(request("POST /v1/jobs", JSON, CHUNKED, body=b"f" * 17 + b"\r\n{}" + SMUGGLED) + LAST)
    assert [answer.status for answer in answers] == [408]


def test_chunk_data_longer_than_its_size(wire: Wire) -> None:
    """What stands between a chunk and its end must be CR LF: CVE-2025-43859, in this very parser."""
    body = b"2\r\n{}XX" + EMPTY + SMUGGLED
    only_refused(wire.exchange(request("POST /v1/jobs", JSON, CHUNKED, body=body) + LAST))


@pytest.mark.parametrize("extension", [b";" + b"a" * 2_000_000, b";a=" + b"b" * 2_000_000])
def test_bomb_of_chunk_extensions(wire: Wire, extension: bytes) -> None:
    """Extensions are no body, so no cap on bodies counts them: CVE-2023-39326, CVE-2024-22019."""
    answers = wire.exchange(
        request("POST /v1/jobs", JSON, CHUNKED, body=b"2" + extension + b"\r\n{}\r\n" + EMPTY) + LAST
    )
    only_refused(answers)


def test_chunk_extension_with_a_bare_line_feed(wire: Wire) -> None:
    """A line feed inside an extension that hides the next chunk: CVE-2025-55315."""
    hidden = b"2;\n" + f"{len(SMUGGLED):x}\r\n".encode() + SMUGGLED + b"\r\n"
    answers = wire.exchange(request("POST /v1/jobs", JSON, CHUNKED, body=hidden + EMPTY) + LAST)
    not_smuggled(answers)


def test_trailer_is_no_header(wire: Wire) -> None:
    """Trailers never set what the head has set: RFC 9110, section 6.5.1; CVE-2022-37436."""
    trailers = f"Authorization: Bearer nobody\r\nContent-Length: 9\r\n{JSON}\r\n\r\n".encode()
    answers = wire.exchange(request("POST /v1/jobs", JSON, CHUNKED, body=b"2\r\n{}\r\n0\r\n" + trailers) + LAST)
    assert [answer.status for answer in answers] == [422, 200]


def test_chunked_body_of_http_1_0(wire: Wire) -> None:
    """HTTP/1.0 has no chunks; a proxy of that version would pass them through: RFC 9112, section 6.1."""
    head = f"POST /v1/jobs HTTP/1.0\r\n{AUTH}\r\n{CHUNKED}\r\nConnection: keep-alive\r\n\r\n".encode()
    only_refused(wire.exchange(head + EMPTY + SMUGGLED + LAST))


def test_body_of_a_get(wire: Wire) -> None:
    """A GET whose body is the next request, for servers that read none (CL.0): CVE-2022-20713; CWE-444."""
    answers = wire.exchange(request("GET /v1/jobs", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED) + LAST)
    assert [answer.status for answer in answers] == [200, 200]
    not_smuggled(answers)


@pytest.mark.parametrize("target", ["DELETE /v1/jobs/x", "POST /nowhere", "POST /v1/jobs/x/cancel", "PUT /livez"])
def test_body_that_no_route_reads(wire: Wire, target: str) -> None:
    """CL.0 on routes without a body and on refusals: what is not read is still no request; CWE-444."""
    answers = wire.exchange(request(target, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED) + LAST)
    assert 400 <= answers[0].status < 500
    not_smuggled(answers)


@pytest.mark.parametrize(
    "target", ["POST /v1/uploads", "PUT /v1/uploads/..", "PATCH /v1/uploads/x", "POST /v1/samples"]
)
def test_streamed_body_that_is_refused_unread(wire: Wire, target: str) -> None:
    """The same where the body is not read before the answer; CWE-444."""
    answers = wire.exchange(request(target, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED) + LAST)
    assert 400 <= answers[0].status < 500
    not_smuggled(answers)


def test_broken_chunk_behind_an_answer(wire: Wire) -> None:
    """The body breaks when its answer is already given: the connection ends without a second one; CWE-755."""
    with wire.connect() as connection:
        connection.sendall(request("PUT /v1/uploads/..", CHUNKED, body=b"5\r\nhello\r\n"))
        said = b""
        while not said.endswith(b"}"):
            said += connection.recv(65536)
        connection.sendall(b"zz\r\n" + SMUGGLED)
        answers = parse(said + everything(connection), [])
    assert [answer.status for answer in answers] == [400]


def test_body_that_breaks_while_it_is_read(wire: Wire) -> None:
    """The same while a route waits for the rest: nothing is kept of it; CWE-755."""
    answers = wire.exchange(request("PUT /v1/uploads/half.bin", CHUNKED, body=b"5\r\nhello\r\nzz\r\n") + LAST)
    only_refused(answers)


# Lines and heads


def test_bare_line_feeds(wire: Wire) -> None:
    """Lines that end in LF alone: a recipient may take them (RFC 9112, section 2.2), but then as line ends only."""
    head = f"POST /v1/jobs HTTP/1.1\nHost: a\n{AUTH}\n{JSON}\nContent-Length: 2\n\n".encode()
    answers = wire.exchange(head + b"{}" + LAST)
    assert [answer.status for answer in answers] == [422, 200]


@pytest.mark.parametrize("value", ["a\x00b", "a\rb", "a\r\rb", "a\x7f\x00"])
def test_control_characters_in_a_header(wire: Wire, value: str) -> None:
    """NUL and bare CR in a value: RFC 9110, section 5.5; CVE-2021-22959; CWE-93."""
    only_refused(wire.exchange(request("GET /v1/jobs", f"X: {value}") + LAST))


@pytest.mark.parametrize("line", ["X : y", " X: y", "X", ": y", "X\t: y", "(X): y", "X\xe9: y", "\x00: y"])
def test_malformed_header_line(wire: Wire, line: str) -> None:
    """Space before the colon and names that are no token: RFC 9112, section 5.1; CVE-2019-15605."""
    only_refused(
        wire.exchange(b"GET /v1/jobs HTTP/1.1\r\n" + f"{line}\r\n{AUTH}\r\nHost: a\r\n\r\n".encode("latin-1") + LAST)
    )


@pytest.mark.parametrize(
    "line",
    [
        "GET /livez",
        "GET  /livez HTTP/1.1",
        "GET /livez HTTP/1.1 ",
        "GET /li vez HTTP/1.1",
        "GET\t/livez HTTP/1.1",
        "GET /livez http/1.1",
        "GET /livez HTTP/1",
        "GET /livez HTTP/11.1",
        "GET /livez HTTP/0.9",
        "GET /livez HTTP/2.0",
        "GET /livez HTTP/9.9",
        "G\x00T /livez HTTP/1.1",
        "GET /li\x00vez HTTP/1.1",
        "GET /li\xe9vez HTTP/1.1",
        "",
        "\x16\x03\x01",
    ],
)
def test_malformed_request_line(wire: Wire, line: str) -> None:
    """Versions, spaces and control characters in the first line, a TLS greeting among them: RFC 9112, section 3."""
    only_refused(wire.exchange(f"{line}\r\nHost: a\r\n\r\n".encode("latin-1") + LAST))


def test_http_0_9(wire: Wire) -> None:
    """A request without head: RFC 1945, section 4.1; gone for good."""
    only_refused(wire.exchange(b"GET /livez\r\n\r\n" + LAST))


def test_http_1_0(wire: Wire) -> None:
    """An old client is answered, and the connection closed: RFC 9112, section 9.3."""
    answers = wire.exchange(b"GET /livez HTTP/1.0\r\n\r\n" + LAST)
    assert [answer.status for answer in answers] == [200]


def test_preface_of_http_2(wire: Wire) -> None:
    """HTTP/2 with prior knowledge: RFC 9113, section 3.4. It is not spoken here."""
    only_refused(wire.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + LAST))


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "h2c, websocket"])
def test_upgrade(wire: Wire, protocol: str) -> None:
    """h2c smuggling past a proxy's rules, and other upgrades: RFC 9110, section 7.8; CVE-2020-11993."""
    lines = [
        f"Upgrade: {protocol}",
        "Connection: Upgrade, HTTP2-Settings",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    answers = wire.exchange(request("GET /v1/jobs", *lines) + LAST)
    assert [answer.status for answer in answers] == [200, 200]
    assert "upgrade" not in answers[0].headers


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "X" * 200])
def test_strange_methods(wire: Wire, method: str) -> None:
    """TRACE gives nothing back of what was sent, and no other method does anything: CVE-2003-1567; CWE-749."""
    for target in ("/v1/jobs", "*", "internal:80"):
        answer = wire.one(f"{method} {target}", "X: seen by nobody else")
        assert answer.problem["code"] in ("method-not-allowed", "not-found", "bad-request")
        assert b"seen by nobody" not in answer.body


def test_expectation_is_met_only_where_the_body_is_wanted(wire: Wire) -> None:
    """Expect: 100-continue on a body that is refused by its head (RFC 9110, section 10.1.1): no 100, and at once."""
    lines = ["Expect: 100-continue", f"Content-Length: {10**15}"]
    for target in ("POST /v1/jobs", "POST /v1/samples?kind=clean&format=csv", "PUT /v1/uploads/a"):
        answers = wire.exchange(request(target, "Connection: close", *lines))
        assert [answer.status for answer in answers] == [413]


def test_expectation_without_a_key(wire: Wire) -> None:
    """Nobody is asked to go on who may not: CWE-770."""
    lines = b"Host: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
    assert [answer.status for answer in wire.exchange(b"PUT /v1/uploads/a HTTP/1.1\r\n" + lines)] == [401]


@pytest.mark.parametrize("value", ["200-ok", "100-continue, x", "\xff", "100-continue" * 500])
def test_unknown_expectations(wire: Wire, value: str) -> None:
    """Other expectations: RFC 9110, section 10.1.1 lets a server pass over them."""
    assert wire.one("GET /v1/jobs", f"Expect: {value}").status in (200, 417)


# Sizes


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n" + b" z\r\n" * 50_000 + b"\r\n",
        b"a" * 200_000,
        b"\x00" * 200_000,
    ],
    ids=["target", "header", "headers", "folds", "method", "zeros"],
)
def test_head_without_end(wire: Wire, data: bytes) -> None:
    """Heads of any size in memory, and quadratic work on them: CWE-770; CVE-2011-3192, CVE-2023-44487 and kin."""
    only_refused(wire.exchange(data + LAST))


def test_long_target_within_bounds(wire: Wire) -> None:
    """A target of 16 KiB is read, and is nothing: RFC 9110, section 4.1 asks for 8,000 octets."""
    assert wire.one("GET /v1/jobs/" + "a" * 16_000).problem["code"] == "not-found"
    assert wire.one("GET /v1/jobs?after=" + "a" * 16_000).problem["code"] == "not-found"


def test_many_requests_at_once(wire: Wire) -> None:
    """A pipeline is answered one by one and in order: RFC 9112, section 9.3.2; CWE-770."""
    answers = wire.exchange(SMUGGLED * 200 + LAST)
    assert [answer.status for answer in answers] == [200] * 201


# Slowness


def test_head_that_trickles(hasty: Wire) -> None:
    """Slowloris: a head that never ends holds its connection for a time and no longer. CVE-2007-6750; CWE-400."""
    slow = [hasty.connect() for _ in range(100)]
    for connection in slow:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ")
    assert hasty.one("GET /v1/jobs").status == 200
    for connection in slow:
        assert parse(everything(connection), [])[0].problem["status"] == 408
        connection.close()


def test_second_head_that_trickles(hasty: Wire) -> None:
    """The same behind a good request: the time begins anew with each answer, and is no longer. CWE-400."""
    with hasty.connect() as connection:
        connection.sendall(SMUGGLED + b"GET /livez HTTP/1.1\r\nX")
        statuses = [answer.status for answer in parse(everything(connection), [])]
    assert statuses == [200, 408]


def test_connection_that_says_nothing(hasty: Wire) -> None:
    """An idle connection: CWE-400."""
    with hasty.connect() as connection:
        assert parse(everything(connection), [])[0].status == 408


def test_body_that_does_not_come(hasty: Wire) -> None:
    """R-U-Dead-Yet: a body that was promised and does not come. CWE-400."""
    for target in ("POST /v1/jobs", "PUT /v1/uploads/slow", "POST /v1/samples?kind=clean&format=csv"):
        answer = hasty.exchange(request(target, JSON, "Content-Length: 100", body=b"{"))[0]
        assert answer.problem["code"] == "body-interrupted"


def test_body_that_trickles_behind_its_refusal(hasty: Wire) -> None:
    """A refusal before the end of a body does not make its connection a free one: CWE-400."""
    with hasty.connect() as connection:
        connection.sendall(request("PUT /v1/uploads/..", "Content-Length: 1000000", body=b"x"))
        answers = parse(drip(connection), [])
    assert [answer.status for answer in answers] == [400]


def drip(connection: socket.socket) -> bytes:
    """A byte now and then for as long as the server lets us; returns what it said."""
    said = b""
    connection.settimeout(0.05)
    with contextlib.suppress(ConnectionError):
        while True:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if not (data := connection.recv(65536)):
                    break
                said += data
    return said


# Host and target


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80@a", "a/../evil", "[::1", "[", "]", "a:b", "%00", "\xff", "a b", "a," * 200],
)
def test_host_poisoning(wire: Wire, host: str) -> None:
    """Host never comes back in an address: CWE-644; CVE-2016-10073 and kin. A malformed one harms nobody."""
    answers = [
        wire.exchange(
            request("PUT /v1/uploads/a", "Connection: close", "Content-Length: 1", host=f"Host: {host}", body=b"x")
        ),
        wire.exchange(
            request("PUT /v1/uploads/a", "Connection: close", "Content-Length: 1", host=f"Host: {host}", body=b"x")
        ),
        wire.exchange(request("GET /v1/samples?limit=1", "Connection: close", host=f"Host: {host}")),
        wire.exchange(request("GET /v1/jobs?limit=1", "Connection: close", host=f"Host: {host}")),
    ]
    for (answer,) in answers:
        assert answer.status in (200, 201, 400)
        assert answer.headers.get("location", "/v1/").startswith("/v1/")
        assert "evil" not in json.dumps(answer.headers)


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Host", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Host"]
)
def test_headers_of_proxies_are_not_believed(wire: Wire, name: str) -> None:
    """A caller says neither who nor where the service is, nor which route is meant: CVE-2018-14773; CWE-348."""
    value = "host=evil.example" if name == "Forwarded" else "evil.example" if name.endswith("Host") else "/livez"
    answer = wire.one("PUT /v1/uploads/a", f"{name}: {value}", body=b"x")
    assert re.fullmatch("/v1/uploads/[0-9a-f-]{36}", answer.headers["location"])


@pytest.mark.parametrize("host", ["", "Host: a\r\nHost: b", "Host : a"])
def test_none_and_two_hosts(wire: Wire, host: str) -> None:
    """RFC 9112, section 3.2: 400 for a request without Host and for one with two."""
    only_refused(wire.exchange(request("GET /livez", host=host) + LAST))


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/v1/jobs",
        "http://a@b/livez",
        "//evil.example/livez",
        "https:livez",
        "*",
        "evil.example:443",
        "?",
        "#",
        "livez",
    ],
)
def test_targets_that_are_no_path(wire: Wire, target: str) -> None:
    """Absolute, authority and other forms lead nowhere: RFC 9112, section 3.2; CVE-2021-40438."""
    answer = wire.one(f"GET {target}")
    assert answer.status in (400, 404)
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "%00",
        "a%00.bin",
        "%0d%0aSet-Cookie:%20a=b",
        "..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..",
        "a/../../b",
        "a%2f..%2fb",
        "%c0%ae%c0%ae%c0%afetc",
        "%ff%fe",
        "%u002e",
        "%",
        "%2",
        "..;/a",
        "/etc/passwd",
        "a//b",
        "%ef%bc%8e%ef%bc%8e",
        "%e2%80%ae",
        "C:%5ca",
        ".%20",
        "%20a",
    ],
)
def test_paths_that_climb(wire: Wire, path: str) -> None:
    """Traversal by dots, slashes, NUL, overlong UTF-8 and double encoding: CWE-22, CWE-158; CVE-2021-41773."""
    assert wire.one(f"PUT /v1/uploads/{path}", body=b"x").status in (400, 404, 405)
    assert 400 <= wire.one(f"GET /v1/jobs/{path}").status < 500
    answer = wire.one(f"GET /v1/jobs/019ab1c2-0000-7000-8000-000000000000/artifacts/{path}")
    assert answer.problem["code"] == "not-found"
    assert "\nset-cookie" not in "\n".join(answer.headers)


def test_twice_encoded_path_is_a_name_that_is_refused(wire: Wire) -> None:
    """Decoded once and never again: CWE-174; CVE-2001-0333."""
    assert wire.one("PUT /v1/uploads/%252e%252e%252fa", body=b"x").problem["code"] == "bad-request"
    assert wire.one("GET /v1%2fjobs").status in (200, 404)


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"])
def test_method_override(wire: Wire, name: str) -> None:
    """A header is no method, outside of what tus asks for: CWE-650."""
    assert wire.one("GET /v1/jobs", f"{name}: DELETE").status == 200
    assert wire.one("POST /v1/jobs?_method=GET", JSON, f"{name}: GET", body=b"{}").status == 422
