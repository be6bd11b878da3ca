"""Logging in: files of users and their leads, how often a password may be tried, sessions, and the page's form."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from icr_platform.core.errors import InputError
from ui.server import auth
from ui.server.asgi import AsgiMessage, Receive, Scope, Send, answer
from ui.server.attempts import PER_ADDRESS, PER_KNOWN, PER_NAME, WINDOW_SECONDS, Attempts, wait_sentence
from ui.server.login import WRONG, Login, PasswordChecks, Sessions, login_page
from ui.server.options import InspectOptions
from ui.server.roles import leads_of
from ui.server.same_origin import SameOrigin, Sites
from ui.server.write_tokens import WriteTokens

STORED = auth.hash_password("correct horse")


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_users_and_leads_are_read(tmp_path: Path) -> None:
    """Files from before there were leads have none; comments, blanks and scripts of every language stay."""
    old = write(tmp_path / "old", "# team", "", f"mira:{STORED}", f"Lucía:{STORED}", f"  দিয়া:{STORED}  ")
    assert auth.load_users(old) == {name: auth.User(STORED) for name in ("mira", "Lucía", "দিয়া")}
    new = write(tmp_path / "new", f"mira:{STORED}:lead", f"nele:{STORED}")
    assert auth.load_users(new) == {"mira": auth.User(STORED, True), "nele": auth.User(STORED)}


@pytest.mark.parametrize(
    "line",
    ["mira", "mira:secret", ":" + STORED, f"mira:{STORED}:leader", f"mira:{STORED}:", f"mira:{STORED}:lead:lead", f"mira:{STORED[:-1]}",
     "mira:scrypt:a:8:1:00:00", f"mira:{STORED}zz"],
)  # fmt: skip
def test_a_line_that_is_no_user_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"users: line 2: .*python -m ui\.server\.auth"):
        auth.load_users(write(tmp_path / "users", f"nele:{STORED}", line))


def test_files_that_are_no_files_of_users(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00mira")
    for name, said in (("gone", "no such file"), ("", "is not a readable file"), ("bytes", "is not a readable file")):
        with pytest.raises(InputError, match=said):
            auth.load_users(tmp_path / name)
    with pytest.raises(InputError, match="contains no user"):
        auth.load_users(write(tmp_path / "empty", "# nobody yet"))


def test_adding_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed password leaves the role; the file is its owner's alone; what a line cannot hold is refused."""
    monkeypatch.setattr("getpass.getpass", lambda prompt: "correct horse")
    path = tmp_path / "users"
    assert auth.main([str(path), "mira", "--lead"]) == 0
    assert auth.main([str(path), "nele"]) == 0
    assert auth.main([str(path), "mira"]) == 0
    assert {name: user.is_lead for name, user in auth.load_users(path).items()} == {"mira": True, "nele": False}
    assert auth.main([str(path), "mira", "--no-lead"]) == 0
    assert not auth.load_users(path)["mira"].is_lead
    assert path.stat().st_mode & 0o077 == 0
    is_welcome = auth.checker(auth.load_users(path))
    assert is_welcome("mira", "correct horse")
    assert not is_welcome("mira", "correct hors")
    assert not is_welcome("nobody", "correct horse")
    for name in ("", " ", "a:b", "a\nb", "#a", " a", "a" * 201):
        assert auth.main([str(path), name]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr("getpass.getpass", lambda prompt: "short")
    assert auth.main([str(path), "nele"]) == 2


@pytest.mark.parametrize(
    ("options", "lead", "others"),
    [
        ({}, {"", None}, set()),  # whoever opens the pages on this machine
        (
            {"public_host": "x.example"},
            set(),
            {"", None, "mira"},
        ),  # a network without a login: a typed name proves nothing
        ({"auth_file": "old"}, set(), {"mira", "nele", "", None}),
        ({"auth_file": "old", "lead": "nele"}, {"nele"}, {"mira", "", None}),
        ({"auth_file": "new"}, {"mira"}, {"nele", "", None, "Mira", "mira "}),
        ({"auth_file": "new", "lead": "nele, "}, {"mira", "nele"}, {""}),
        ({"user_header": "X-User"}, set(), {"mira", "", None}),
        ({"user_header": "X-User", "lead": "mira,nele"}, {"mira", "nele"}, {"ana", "", None}),
        ({"user_header": "X-User", "public_host": "x.example", "lead": "mira"}, {"mira"}, {"nele", ""}),
    ],
)
def test_who_leads(tmp_path: Path, options: dict[str, str], lead: set[str | None], others: set[str | None]) -> None:
    write(tmp_path / "old", f"mira:{STORED}", f"nele:{STORED}")
    write(tmp_path / "new", f"mira:{STORED}:lead", f"nele:{STORED}")
    if name := options.get("auth_file"):
        options = {**options, "auth_file": str(tmp_path / name)}
    leads = leads_of(InspectOptions(**options))  # type: ignore[arg-type]
    for user in lead:
        leads.refuse_others(user, "Publishing")
    for user in others:
        with pytest.raises(InputError, match=r"Publishing is for leads.*--lead"):
            leads.refuse_others(user, "Publishing")


def test_leads_that_cannot_be(tmp_path: Path) -> None:
    users = write(tmp_path / "users", f"mira:{STORED}")
    with pytest.raises(InputError, match="no such user; it has mira"):
        leads_of(InspectOptions(auth_file=str(users), lead="nele"))
    with pytest.raises(InputError, match="--lead needs a login"):
        leads_of(InspectOptions(lead="mira"))


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_too_many_attempts() -> None:
    """By address, whatever the names; by name, whatever the addresses; until the oldest is five minutes old."""
    clock = Clock()
    attempts = Attempts(clock)
    for number in range(PER_ADDRESS):
        clock.now += 1
        assert attempts.begin(f"name {number}", "10.0.0.1").wait == 0
    assert attempts.begin("mira", "10.0.0.1").wait == WINDOW_SECONDS - PER_ADDRESS + 1
    assert attempts.begin("mira", "10.0.0.2").wait == 0
    clock.now += WINDOW_SECONDS - PER_ADDRESS
    assert attempts.begin("mira", "10.0.0.1").wait == 1
    clock.now += 1
    assert attempts.begin("mira", "10.0.0.1").wait == 0
    assert attempts.begin("mira", "10.0.0.1").wait > 0, "one is free again, and one was taken"

    attempts = Attempts(clock)
    for number in range(PER_NAME):
        assert attempts.begin("mira", f"10.0.1.{number}").wait == 0
    assert attempts.begin("mira", "10.0.2.1").wait == WINDOW_SECONDS
    assert attempts.begin("nele", "10.0.2.1").wait == 0


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [("10.0.0.1", "10.0.0.1", True), ("10.0.0.1", "10.0.0.2", False), ("2001:db8::1", "2001:db8::ffff", True),
     ("2001:db8::1", "2001:db8:0:1::1", False), ("::ffff:10.0.0.1", "10.0.0.1", True), ("fe80::1%eth0", "fe80::2%eth1", True),
     ("", "", True), ("testclient", "testclient", True)],
)  # fmt: skip
def test_one_address(first: str, second: str, shared: bool) -> None:
    attempts = Attempts(Clock())
    for number in range(PER_ADDRESS):
        attempts.begin(f"name {number}", first)
    assert (attempts.begin("other", second).wait > 0) is shared


def test_strangers_lock_nobody_out() -> None:
    """Who has logged in from an address may go on there, whatever others try from it or with her name; she has a limit of her own."""
    attempts = Attempts(Clock())
    attempts.succeeded(attempts.begin("mira", "10.0.0.1"))
    for number in range(50):
        attempts.begin("mira", f"10.9.0.{number}")
        attempts.begin(f"name {number}", "10.0.0.1")
    for _ in range(PER_KNOWN):
        assert attempts.begin("mira", "10.0.0.1").wait == 0
    assert attempts.begin("mira", "10.0.0.1").wait > 0
    assert attempts.begin("mira", "10.0.0.2").wait > 0


def test_right_passwords_do_not_count() -> None:
    attempts = Attempts(Clock())
    for number in range(5 * PER_ADDRESS):  # a whole university behind one address
        attempt = attempts.begin(f"name {number}", "10.0.0.1")
        assert attempt.wait == 0
        attempts.succeeded(attempt)


def test_when_to_try_again() -> None:
    assert wait_sentence(0.5).endswith("try again in a minute.")
    assert wait_sentence(60).endswith("try again in a minute.")
    assert wait_sentence(299).endswith("try again in 5 minutes.")


def test_passwords_are_checked_off_the_event_loop() -> None:
    """One at a time, in another thread, while the loop goes on; of many at once no more are checked than may be tried."""
    loop_thread, seen, running, most = threading.get_ident(), set(), [0], [0]

    def slow(name: str, password: str) -> bool:
        seen.add(threading.get_ident())
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.005)
        running[0] -= 1
        return password == "right"

    async def flood() -> tuple[list[int], int]:
        checks = PasswordChecks(slow, Attempts(Clock()))
        tries = [asyncio.create_task(checks.check(f"n{i}", "wrong", "10.0.0.1")) for i in range(30)]
        turns = 0
        while not all(task.done() for task in tries):
            await asyncio.sleep(0)
            turns += 1
        return [task.result().status for task in tries], turns

    statuses, turns = asyncio.run(flood())
    assert sorted(statuses) == [400] * PER_ADDRESS + [429] * (30 - PER_ADDRESS)
    assert loop_thread not in seen
    assert most == [1]
    assert turns > PER_ADDRESS


def served(
    method: str = "GET", path: str = "/", fields: dict[str, str] | None = None, query: str = "", sessions: Sessions | None = None,
    headers: dict[str, str] | None = None, is_welcome: Callable[[str, str], bool] = lambda name, password: password == "right",
    body: bytes | None = None, attempts: Attempts | None = None, is_whole: bool = False, trusted: str = "127.0.0.1",
) -> tuple[int, dict[str, str], str]:  # fmt: skip
    """Status, headers and text of what the login's layer answers; 'within' where it let the request through."""
    given = {
        "host": "127.0.0.1:7860",
        "content-type": "application/x-www-form-urlencoded",
        "accept": "text/html",
        **(headers or {}),
    }
    scope: Scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(), "scheme": "http", "client": ("127.0.0.1", 1),
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
    }  # fmt: skip
    sent: list[AsgiMessage] = []

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, "within")

    async def receive() -> AsgiMessage:
        return {"type": "http.request", "body": urlencode(fields or {}).encode() if body is None else body}

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    checks = PasswordChecks(is_welcome, attempts or Attempts())
    app: Any = Login(within, sessions or Sessions("icr-session-x"), checks, ("/", "/pairs"))
    if is_whole:  # as uvicorn and the server have it
        guarded = SameOrigin(app, Sites.of("x.example"), WriteTokens(), ("/",), True, lambda scope: "")
        app = ProxyHeadersMiddleware(guarded, trusted_hosts=trusted)  # type: ignore[arg-type]
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, sent[1]["body"].decode()


RIGHT = {"username": " mira ", "password": "right", "next": "/pairs?run=1&q=a%20b"}


def test_a_session() -> None:
    sessions = Sessions("icr-session-x")
    status, headers, _ = served("POST", "/login", RIGHT, sessions=sessions)
    assert (status, headers["location"]) == (303, "/pairs?run=1&q=a%20b")
    named, *attributes = headers["set-cookie"].split("; ")
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"]
    value = named.partition("=")[2]
    assert sessions.user(value) == "mira"
    assert served("GET", "/pairs", sessions=sessions, headers={"cookie": f"a=b; {named}"})[2] == "within"
    for wrong in ("", value[:-1], value + "x", "x" + value, Sessions("icr-session-x").begin("mira")):
        assert sessions.user(wrong) is None
        assert "<form" in served("GET", "/pairs", sessions=sessions, headers={"cookie": f"icr-session-x={wrong}"})[2]
    assert "logged in as mira" in served("GET", "/logout", sessions=sessions, headers={"cookie": named})[2]
    assert sessions.user(value) == "mira", "a link of another site logs nobody out"
    status, headers, _ = served("POST", "/logout", sessions=sessions, headers={"cookie": named})
    assert (status, headers["location"]) == (303, "/login")
    assert "Max-Age=0" in headers["set-cookie"]
    assert sessions.user(value) is None, "a copy of the cookie is worth nothing either"


@pytest.mark.parametrize(
    ("headers", "is_secure"),
    [
        ({"host": "x.example", "origin": "https://x.example"}, True),  # a proxy that does not say it
        ({"host": "x.example", "x-forwarded-proto": "https"}, True),
        ({"host": "x.example", "origin": "http://x.example"}, False),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}, False),
    ],
)
def test_a_cookie_is_secure_behind_tls(headers: dict[str, str], is_secure: bool) -> None:
    """Through all layers, as the server has them around Gradio."""
    _, answered, _ = served("POST", "/login", RIGHT, headers=headers, is_whole=True)
    assert ("; Secure" in answered["set-cookie"]) is is_secure


@pytest.mark.parametrize(
    ("forwarded", "trusted", "counted"),
    [
        ("10.0.0.7", "127.0.0.1", "10.0.0.7"),
        ("6.6.6.6, 10.0.0.7", "127.0.0.1", "10.0.0.7"),  # what a stranger wrote stands before what the proxy added
        ("10.0.0.7", "", "127.0.0.1"),  # without a proxy everybody could write it
        ("", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_address_that_the_proxy_names(forwarded: str, trusted: str, counted: str) -> None:
    attempts = Attempts()
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    served(
        "POST",
        "/login",
        {**RIGHT, "password": "wrong"},
        headers=headers,
        attempts=attempts,
        is_whole=True,
        trusted=trusted,
    )
    assert f"address {counted}" in attempts._tried


@pytest.mark.parametrize(
    "place",
    [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test",
        "javascript:alert(1)",
        "/\r\nSet-Cookie: a=b",
        "",
        "\\\\evil.test",
        "/\tx",
        "evil",
    ],
)
def test_only_own_addresses_open_after_a_login(place: str) -> None:
    status, headers, _ = served("POST", "/login", {**RIGHT, "next": place})
    assert status == 303
    assert headers["location"] == "/"
    assert "a=b" not in headers["set-cookie"]


def test_the_form_says_what_was_wrong() -> None:
    attempts = Attempts()
    wrong = {"username": '<b>"mira', "password": "wrong", "next": '/pairs?q="><script>'}
    status, headers, text = served("POST", "/login", wrong, attempts=attempts)
    assert status == 400
    assert WRONG in text
    assert "set-cookie" not in headers
    assert '<script>"' not in text
    assert "<b>" not in text
    for _ in range(PER_NAME):
        served("POST", "/login", wrong, attempts=attempts)
    status, _, text = served("POST", "/login", wrong, attempts=attempts)
    assert status == 429
    assert "try again in 5 minutes." in text


def test_scripts_log_in_with_json_answers() -> None:
    """As gradio_client does it: a form, and no wish for HTML."""
    status, headers, text = served("POST", "/login", RIGHT, headers={"accept": "*/*"})
    assert (status, json.loads(text)) == (200, {"success": True})
    assert "set-cookie" in headers
    status, _, text = served("POST", "/login/", {**RIGHT, "password": "wrong"}, headers={"accept": "*/*"})
    assert (status, json.loads(text)) == (400, {"detail": WRONG})


@pytest.mark.parametrize(
    "body", [b"", b"username=mira", b"password=right", b"username=%20&password=right", b"\xff\xfe=\x00", b"a" * 20_000]
)
def test_forms_that_are_no_login(body: bytes) -> None:
    status, headers, _ = served("POST", "/login", body=body)
    assert status in (400, 413)
    assert "set-cookie" not in headers


def test_multipart_forms() -> None:
    parts = "".join(f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in RIGHT.items())
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert served("POST", "/login", body=f"{parts}--x--\r\n".encode(), headers=kind)[0] == 303


def test_only_pages_show_the_form() -> None:
    assert 'value="/pairs?run=1"' in served("GET", "/pairs/", query="run=1")[2].replace("/pairs/?", "/pairs?")
    assert served("GET", "/config")[2] == "within"  # Gradio answers 401
    assert "<form" in served("GET", "/login")[2]
    assert "autofocus" in login_page("/", "")
