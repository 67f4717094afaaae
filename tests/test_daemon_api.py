"""The admin API: what it answers, whom it answers, and that nothing it is asked breaks it."""

import asyncio
import http.client
import json
import logging
import socket
import stat

import pytest
from click.testing import CliRunner
from daemon_parts import PIPELINE, checkpoint, pipeline, running, until
from starlette.routing import Route

from streamrnn.builtins.sockets import Tls
from streamrnn.cli import cli
from streamrnn.commit.control import NAME
from streamrnn.context import Context
from streamrnn.daemon.access import Access, AdminOptions, admin_options, default_address
from streamrnn.daemon.admin import Admin
from streamrnn.daemon.api import Api
from streamrnn.daemon.logs import Lines
from streamrnn.daemon.routes import PATHS, application
from streamrnn.errors import OptionError, SourceError
from streamrnn.net.address import Address, parse

TOKEN = "canary-token-0123456789abcdef"
FOLLOW = "{type: file, path: p.in, follow: true}"


async def asked(app, method, path, body=None, headers=()):
    """What an application answers: status, headers, body."""
    path, _, query = path.partition("?")
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [*headers, *([(b"content-type", b"application/json")] if data else [])]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
             "query_string": query.encode(), "headers": headers, "http_version": "1.1", "scheme": "http",
             "server": ("d", 80), "client": None}  # fmt: skip
    told, inputs = [], [{"type": "http.request", "body": data}]

    async def receive():
        return inputs.pop() if inputs else await asyncio.Event().wait()

    async def send(message):
        told.append(message)

    await app(scope, receive, send)
    return told[0]["status"], dict(told[0]["headers"]), b"".join(m.get("body", b"") for m in told[1:])


def ask(app, method, path, body=None, headers=()):
    status, found, data = asyncio.run(asked(app, method, path, body, headers))
    is_json = found.get(b"content-type") == b"application/json"
    return status, json.loads(data) if is_json else data.decode()


@pytest.fixture
def daemon(tmp_path):
    (tmp_path / "p.in").write_text("".join(f'{{"k":"k{i % 3}","x":{i}}}\n' for i in range(9)) + "none\n")
    more = checkpoint() + "\ndead_letter: {path: refused}"
    pipeline(tmp_path, source=FOLLOW, more=more)
    with running(tmp_path) as found:
        until(lambda: found.fleet.find("p").stats.events == 10)
        yield found


@pytest.fixture
def app(daemon):
    return application(Api(daemon, patience_s=5), None)


def put(tmp_path, daemon, key, x):
    seen = daemon.fleet.find("p").stats.events
    with open(tmp_path / "p.in", "a") as file:
        file.write(f'{{"k":"{key}","x":{x}}}\n')
    until(lambda: daemon.fleet.find("p").stats.events > seen)


def last(tmp_path):
    return json.loads((tmp_path / "p.out").read_text().splitlines()[-1])


def test_how_pipelines_are_doing(app):
    status, found = ask(app, "GET", "/pipelines")
    assert status == 200
    (it,) = found["pipelines"]
    assert ask(app, "GET", "/pipelines/p")[1] | {"turn_age_s": 0} == it | {"turn_age_s": 0}
    assert (it["state"], it["events"], it["outputs"], it["live_keys"]) == ("serving", 10, 9, 3)
    assert it["rejected"] == {"not_decodable": 1} or sum(it["rejected"].values()) == 1
    assert it["resets"] == {"new": 3}
    assert ask(app, "GET", "/livez") == (200, {"ok": True})
    assert ask(app, "GET", "/readyz") == (200, {"ok": True})


def test_not_ready_is_503(daemon, app):
    daemon.fleet.stopping = True
    assert ask(app, "GET", "/readyz") == (503, {"ok": False})
    daemon.fleet.stopping = False


@pytest.mark.parametrize(
    ("body", "count", "reset"),
    [({"keys": ["k0", "nobody", "k0"]}, 1, {"k0"}), ({"glob": "k[1]"}, 0, set()), ({"glob": "?1"}, 1, {"k1"}),
     ({"all": True}, 3, {"k0", "k1", "k2"})],
)  # fmt: skip
def test_a_reset_is_in_the_log_before_it_takes_effect_and_committed_after(
    tmp_path, daemon, app, body, count, reset
):
    before = daemon.fleet.find("p").stats.commit_number
    assert ask(app, "POST", "/pipelines/p/reset", body) == (200, {"keys": count})
    (line,) = (tmp_path / "state/p" / NAME).read_text().splitlines()
    entry = json.loads(line)
    assert (entry["sequence"], entry["command"]) == (1, {"reset": body})
    assert entry["events"] == 9
    assert daemon.fleet.find("p").pipeline.commits.made.number > entry["commit"] >= before
    for i, key in enumerate(["k0", "k1", "k2"]):
        put(tmp_path, daemon, key, 100)
        assert last(tmp_path)["y"] == (100 if key in reset else 100 + [9, 12, 15][i])


def test_a_reset_that_a_crash_kept_from_its_commit_takes_effect_all_the_same(tmp_path):
    (tmp_path / "p.in").write_text('{"k":"a","x":1}\n')
    pipeline(tmp_path, source=FOLLOW, more=checkpoint())
    with running(tmp_path) as daemon:
        it = daemon.fleet.find("p")
        until(lambda: it.stats.events)
        it.ask(lambda found: found.commits.agree({"reset": {"all": True}})).result(5)
        it.ask(lambda found: 1 / 0).exception(5)
        it.try_again()
        until(lambda: it.failures == 1 and it.state == "serving")
        put(tmp_path, daemon, "a", 5)
        assert last(tmp_path)["y"] == 5
    log = tmp_path / "state/p" / NAME
    with open(log, "a") as file:
        file.write('{"sequence":2,"comm')  # what a crash leaves of a line
    with running(tmp_path) as daemon:
        put(tmp_path, daemon, "a", 5)
        assert last(tmp_path)["y"] == 10
        assert ask(application(Api(daemon), None), "POST", "/pipelines/p/reset", {"all": True})[0] == 200
    assert [json.loads(line)["sequence"] for line in log.read_text().splitlines()] == [1, 2]


def test_a_replay_resets_where_it_was_done_by_hand(tmp_path):
    pipeline(tmp_path, source=FOLLOW, more=checkpoint())
    (tmp_path / "p.in").touch()
    with running(tmp_path) as daemon:
        app = application(Api(daemon), None)
        for i, body in enumerate([{"keys": ["a"]}, {"glob": "b*"}, {"all": True}, {"keys": ["a", "bb"]}]):
            for key in ("a", "b", "bb", "none"):
                put(tmp_path, daemon, key, 1 + i if key != "none" else "null")
            assert ask(app, "POST", "/pipelines/p/reset", body)[0] == 200
        put(tmp_path, daemon, "a", 1)
    file = str(tmp_path / "p.yaml")
    assert CliRunner().invoke(cli, ["replay", file]).exit_code == 0
    refused = CliRunner().invoke(cli, ["replay", file, "--from-commit", str(tmp_path / "state/p")])
    assert "the commit was following files" in str(refused.exception)
    shown = CliRunner().invoke(cli, ["why", file, "a"]).output
    assert shown.startswith("1. record 17, byte 284  reset: control\n")
    (tmp_path / "state/p" / NAME).unlink()
    assert CliRunner().invoke(cli, ["replay", file]).exit_code == 1


def test_what_waits_for_earlier_events_is_served_before_a_reset(tmp_path):
    lines = [f'{{"k":"a","x":1,"t":{t}}}\n' for t in (1, 3, 2)]
    (tmp_path / "p.in").write_text("".join(lines))
    text = PIPELINE.replace("event: {{key: k,", "event: {{key: k, time: {{field: t, unit: s}},")
    more = checkpoint() + "\norder: {type: event_time, max_behind_s: 10}"
    pipeline(tmp_path, source=FOLLOW, more=more, text=text)
    with running(tmp_path) as daemon:
        it = daemon.fleet.find("p")
        until(lambda: it.stats.events == 3)
        assert it.stats.held == 3
        app = application(Api(daemon), None)
        assert ask(app, "POST", "/pipelines/p/reset", {"keys": ["a"]}) == (200, {"keys": 1})
        with open(tmp_path / "p.in", "a") as file:
            file.write('{"k":"a","x":5,"t":4}\n{"k":"b","x":1,"t":99}\n')
        until(lambda: it.stats.outputs == 4)
    found = [json.loads(line)["y"] for line in (tmp_path / "p.out").read_text().splitlines()]
    assert found == [1, 2, 3, 5]

    def replayed():
        told = CliRunner().invoke(cli, ["replay", str(tmp_path / "p.yaml"), "--print"]).stdout.splitlines()
        return [json.loads(line)["y"] for line in told][:4]

    assert replayed() == found
    (tmp_path / "state/p" / NAME).unlink()
    assert replayed() == [1, 2, 3, 8]


@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it is stopped"])
@pytest.mark.parametrize("kind", ["a log of two partitions", "a socket with a log"])
def test_a_log_is_replayed_with_what_was_done_by_hand(tmp_path, kind, runs):
    """Without a word about where the recorded data is: the source knows."""
    from streamrnn.client import Producer

    listens = f'{{type: socket, listen: "unix:{tmp_path}/in", durability: log, log: log}}'
    sources = {
        "a log of two partitions": "{type: log, path: log, follow: true}",
        "a socket with a log": listens,
    }
    pipeline(tmp_path, source=sources[kind], more=checkpoint())
    for name in "01" if "partitions" in kind else "":
        path = tmp_path / "log" / name / f"{0:020}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text('{"k":"a","x":1}\n{"k":"b","x":1}\n')

    def put(name):
        if "socket" in kind:
            with Producer(f"unix:{tmp_path}/in", name) as producer:
                for _ in range(2):
                    producer.send({"k": "a", "x": 1})
        else:
            with open(tmp_path / "log" / "1" / f"{0:020}.jsonl", "a") as file:
                file.write('{"k":"a","x":1}\n' * 2)

    def answered(count):
        until(lambda: (tmp_path / "p.out").read_bytes().count(b"\n") == count)

    with running(tmp_path) as daemon:
        if "socket" in kind:
            put("first")
            put("second")
        answered(4)
        if runs:
            app = application(Api(daemon), None)
            assert ask(app, "POST", "/pipelines/p/reset", {"glob": "a*"})[0] == 200
    if not runs:
        done = CliRunner().invoke(cli, ["state", "reset", str(tmp_path / "state/p"), "--glob", "a*"])
        assert done.exit_code == 0
    with running(tmp_path):
        put("third")
        answered(6)
    file = str(tmp_path / "p.yaml")
    shown = CliRunner().invoke(cli, ["why", file, "a"]).output
    assert "1. record " in shown
    assert "reset: control" in shown
    assert '{"k":"a","y":2.0}' in shown
    (tmp_path / "state/p" / NAME).unlink()
    assert "reset: control" not in CliRunner().invoke(cli, ["why", file, "a"]).output


def test_a_key_and_what_is_known_of_it(app):
    status, found = ask(app, "GET", "/pipelines/p/state?key=k1")
    assert status == 200
    assert found["partitions"][""]["state"] == {"H": 12.0}
    assert found["partitions"][""]["facts"]["steps"] == 3
    status, found = ask(app, "GET", "/pipelines/p/state?key=nobody")
    assert (status, found) == (409, {"error": "key 'nobody' has no state in p; 3 others have"})


def test_commit_reload_and_dead_letters(app):
    status, found = ask(app, "POST", "/pipelines/p/checkpoint")
    assert status == 200
    assert found["commit"] >= 1
    assert ask(app, "POST", "/pipelines/p/reload", {"state": "keep"})[1]["pipelines"]["p"].startswith(
        "reloaded"
    )
    assert "p" in ask(app, "POST", "/reload")[1]["pipelines"]
    status, found = ask(app, "GET", "/pipelines/p/dead-letters?last=1")
    assert [letter["raw"] for letter in found["last"]] == ["none"]
    assert sum(found["counted"].values()) == 1


def test_a_tap_shows_what_passes_and_is_gone_when_nobody_listens(tmp_path, daemon, app):
    async def listen():
        listening = asyncio.create_task(asked(app, "GET", "/pipelines/p/tap?key=k1&seconds=0.6"))
        while not daemon.fleet.find("p").stats.taps:
            await asyncio.sleep(0.001)
        for key in ("k0", "k1", "k1"):
            await asyncio.to_thread(put, tmp_path, daemon, key, 1)
        return await listening

    status, _, data = asyncio.run(listen())
    events = [json.loads(line) for line in data.splitlines() if line]
    assert status == 200
    assert [event["output"] for event in events] == ['{"k":"k1","y":13.0}', '{"k":"k1","y":14.0}']
    assert events[0]["event"] == '{"k":"k1","x":1}'
    assert daemon.fleet.find("p").stats.taps == []


def test_numbers_for_prometheus(app):
    from prometheus_client.parser import text_string_to_metric_families

    status, page = ask(app, "GET", "/metrics")
    assert status == 200
    found = {
        s.name: s.value
        for f in text_string_to_metric_families(page)
        for s in f.samples
        if "le" not in s.labels
    }
    assert found["streamrnn_events_total"] == 10
    assert found["streamrnn_rejected_total"] == 1
    assert found["streamrnn_resets_total"] == 3
    assert found["streamrnn_live_keys"] == 3
    assert found["streamrnn_up"] == 1
    assert found["streamrnn_wave_events_total"] + found["streamrnn_scan_events_total"] == 9
    assert found["streamrnn_serve_seconds_count"] == found["streamrnn_batches_total"] >= 1


WRONG = [
    ("GET", "/pipelines/none", None, 404),
    ("GET", "/nowhere", None, 404),
    ("DELETE", "/pipelines", None, 405),
    ("GET", "/pipelines?x=1", None, 422),
    ("GET", "/pipelines/p/state", None, 422),
    ("GET", "/pipelines/p/state?key=a&key=b", None, 422),
    ("GET", "/pipelines/p/tap?per_s=nan", None, 422),
    ("POST", "/pipelines/p/reset", None, 422),
    ("POST", "/pipelines/p/reset", {}, 422),
    ("POST", "/pipelines/p/reset", {"keys": ["a"], "all": True}, 422),
    ("POST", "/pipelines/p/reset", {"keys": []}, 422),
    ("POST", "/pipelines/p/reset", {"keys": [1]}, 422),
    ("POST", "/pipelines/p/reset", {"all": False}, 422),
    ("POST", "/pipelines/p/reset", {"all": True, "partition": "none"}, 409),
    ("POST", "/pipelines/p/reset", b"{", 422),
    ("POST", "/pipelines/p/reset", b"\xff", 422),
    ("POST", "/pipelines/p/reset", b" " * ((1 << 20) + 1), 413),
    ("POST", "/pipelines/p/reload", {"state": "guess"}, 422),
    ("POST", "/pipelines/p/checkpoint", {"x": 1}, 422),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), WRONG)
def test_what_is_wrong_is_refused_with_a_reason(app, method, path, body, status):
    found, answer = ask(app, method, path, body)
    assert found == status
    assert list(answer) == ["error"]
    assert answer["error"]


def credentials():
    right = f"Bearer {TOKEN}".encode()
    yield "none", [], False
    yield "right", [(b"authorization", right)], True
    yield "right, in another case", [(b"authorization", right.replace(b"Bearer", b"bearer"))], True
    yield "wrong", [(b"authorization", right[:-1])], False
    yield "longer", [(b"authorization", right + b"x")], False
    yield "empty", [(b"authorization", b"Bearer ")], False
    yield "of another kind", [(b"authorization", right.replace(b"Bearer", b"Basic"))], False
    yield "bare", [(b"authorization", TOKEN.encode())], False
    yield "twice", [(b"authorization", right)] * 2, False
    yield "elsewhere", [(b"x-token", right), (b"cookie", b"token=" + TOKEN.encode())], False


def test_every_route_asks_for_the_token_but_the_two_that_tell_nothing(daemon):
    """The routes are those of the router itself, so that a new one is in the table, too."""
    app = application(Api(daemon, patience_s=5), TOKEN)
    router = app._app
    routes = [(method, route.path) for route in router.routes for method in sorted(route.methods)]
    assert len(routes) > len(PATHS)
    assert all(isinstance(route, Route) for route in router.routes)
    routes += [("GET", "/nowhere"), ("GET", "//livez"), ("GET", "/livez/"), ("GET", "/livez/../metrics")]
    for method, path in routes:
        for what, headers, is_right in credentials():
            status, _ = ask(app, method, path.replace("{name}", "none"), headers=headers)
            is_open = path in ("/livez", "/readyz")
            assert (status != 401) == (is_open or is_right), f"{method} {path} with a token that is {what}"


def test_what_is_no_request_gets_nothing(daemon):
    async def send(message):
        raise AssertionError(message)

    for kind in ("websocket", "lifespan"):
        asyncio.run(Access(None, TOKEN, ())({"type": kind, "path": "/livez"}, None, send))


ADDRESSES = [
    ("unix:/tmp/x", {}, None),
    ("tcp://127.0.0.1:0", {}, "asks for a token"),
    ("tcp://127.0.0.1:0", {"token": TOKEN}, None),
    ("tcp://127.0.0.1:0", {"token": "short"}, "at least 16 printable"),
    ("tcp://127.0.0.1:0", {"tls": {"cert": "c", "key": "k"}}, "asks for a token"),
    ("tcp://127.0.0.1:0", {"tls": {"cert": "c", "key": "k", "client_ca": "a"}}, None),
    ("tcp://0.0.0.0:80", {"token": TOKEN}, "can be reached from elsewhere"),
    ("tcp://[::]:80", {"token": TOKEN}, "can be reached from elsewhere"),
    ("tcp://0.0.0.0:80", {"token": TOKEN, "insecure": True}, None),
    ("tcp://0.0.0.0:80", {"insecure": True}, "asks for a token"),
    ("tcp://0.0.0.0:80", {"token": TOKEN, "tls": {"cert": "c", "key": "k"}}, None),
    ("http://x", {"token": TOKEN}, "expected tcp://"),
]


@pytest.mark.parametrize(("address", "given", "why"), ADDRESSES)
@pytest.mark.parametrize("by", ["file", "variable"])
def test_nothing_is_listened_at_that_lets_in_anybody(tmp_path, address, given, why, by):
    env, file, token = {}, None, given.get("token")
    if token and by == "file":
        file = str(tmp_path / "token")
        (tmp_path / "token").write_text(token + "\n")
    elif token:
        env["STREAMRNN_ADMIN_TOKEN"] = token
    tls = Tls.model_validate(given["tls"]) if "tls" in given else None

    def options():
        return admin_options(address, file, tls, given.get("insecure", False), env, Context())

    if why is None:
        found = options()
        assert found.token == (None if address.startswith("unix") else token)
        assert TOKEN not in repr(found)
    else:
        with pytest.raises(OptionError, match=why):
            options()


def test_a_token_file_that_is_not_there_is_told():
    with pytest.raises(OptionError, match="cannot be read"):
        admin_options("tcp://127.0.0.1:0", "/nowhere", None, False, {}, Context())


@pytest.mark.parametrize(
    ("env", "address"),
    [({"STREAMRNN_ADMIN": "unix:/x", "RUNTIME_DIRECTORY": "/run/s"}, "unix:/x"),
     ({"RUNTIME_DIRECTORY": "/run/s:/run/t", "XDG_RUNTIME_DIR": "/run/u"}, "unix:/run/s/admin.sock"),
     ({"XDG_RUNTIME_DIR": "/run/u"}, "unix:/run/u/streamrnn/admin.sock")],
)  # fmt: skip
def test_where_it_is_asked_unless_told_otherwise(env, address):
    assert default_address(env) == address


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("d", timeout=10)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


@pytest.fixture
def served(daemon):
    """Servers that are closed again, made of options."""
    opened = []

    def serve(options):
        admin = Admin(daemon, options, Context())
        opened.append(admin)
        admin.start()
        return admin

    yield serve
    for admin in opened:
        admin.close()


def fetched(connection, path, **headers):
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def test_a_unix_socket_is_for_this_user_alone_and_gone_afterwards(tmp_path, served):
    path = tmp_path / "run" / "admin.sock"
    admin = served(AdminOptions(parse(f"unix:{path}")))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert fetched(Unix(str(path)), "/livez") == (200, b'{"ok":true}')
    with pytest.raises(SourceError, match="cannot listen"):
        served(AdminOptions(parse(f"unix:{path}")))
    admin.close()
    assert not path.exists()


def test_tcp_with_a_token(served):
    admin = served(AdminOptions(Address("127.0.0.1", 0), TOKEN))
    port = parse(admin.address).port

    def status(**headers):
        return fetched(http.client.HTTPConnection("127.0.0.1", port, timeout=10), "/pipelines", **headers)[0]

    assert [status(), status(Authorization="Bearer no"), status(Authorization=f"Bearer {TOKEN}")] == [
        401,
        401,
        200,
    ]


def test_mutual_tls(tmp_path, served):
    import ssl

    import trustme

    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    of_server = authority.issue_cert("localhost")
    of_server.private_key_pem.write_to_path(str(tmp_path / "key"))
    for i, pem in enumerate(of_server.cert_chain_pems):
        pem.write_to_path(str(tmp_path / "cert"), append=i > 0)
    names = {
        name: str(tmp_path / file) for name, file in {"cert": "cert", "key": "key", "client_ca": "ca"}.items()
    }
    admin = served(AdminOptions(Address("127.0.0.1", 0), None, Tls.model_validate(names)))
    port = parse(admin.address).port

    def status(certificate):
        context = ssl.create_default_context(cafile=str(tmp_path / "ca"))
        if certificate is not None:
            certificate.configure_cert(context)
        try:
            client = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
            return fetched(client, "/pipelines")[0]
        except OSError:
            return "refused"

    assert status(authority.issue_cert("client@x")) == 200
    assert status(None) == "refused"
    assert status(other.issue_cert("client@x")) == "refused"


def test_secrets_are_nowhere_to_be_found(tmp_path, daemon, caplog):
    """Twenty of them: the token, wrong ones, what stands in requests that are refused, the bytes of a key."""
    canaries = [f"canary-{i:02}-f00dfeedbeef" for i in range(20)]
    app = application(Api(daemon, patience_s=5), canaries[0])
    right = (b"authorization", f"Bearer {canaries[0]}".encode())
    caplog.set_level(logging.DEBUG)
    told = []
    for canary in canaries[1:8]:
        told.append(ask(app, "GET", "/pipelines", headers=[(b"authorization", f"Bearer {canary}".encode())]))
    for i, canary in enumerate(canaries[8:16]):
        body = [{"keys": canary}, {"secret": canary}, {"all": canary}, {"glob": [canary]}][i % 4]
        told.append(ask(app, "POST", "/pipelines/p/reset", body, [right]))
    for canary in canaries[16:18]:
        told.append(ask(app, "GET", f"/pipelines/p/state?key=a&partition=p&per_s={canary}", headers=[right]))
    (tmp_path / "key").write_text(
        "-----BEGIN PRIVATE KEY-----\n" + canaries[18] + "\n-----END PRIVATE KEY-----\n"
    )
    (tmp_path / "cert").write_text(
        "-----BEGIN CERTIFICATE-----\n" + canaries[19] + "\n-----END CERTIFICATE-----\n"
    )
    tls = Tls.model_validate({"cert": str(tmp_path / "cert"), "key": str(tmp_path / "key")})
    with pytest.raises(OptionError) as caught:
        Admin(daemon, AdminOptions(Address("127.0.0.1", 0), canaries[0], tls), Context())
    for path in ("/metrics", "/pipelines", "/openapi.json", "/pipelines/p/dead-letters"):
        told.append(ask(app, "GET", path, headers=[right]))
    lines = Lines(Context().clock, for_people=False)
    logged = [lines.format(record) for record in caplog.records]
    written = [
        path.read_bytes().decode("latin-1") for path in (tmp_path / "state").rglob("*") if path.is_file()
    ]
    written += [(tmp_path / name).read_text() for name in ("p.out", "refused")]
    everything = "\n".join([*map(str, told), str(caught.value), *logged, *written])
    assert all(status in (401, 422) for status, _ in told[:17])
    assert [canary for canary in canaries if canary in everything] == []


def test_the_document_names_every_path(app):
    status, document = ask(app, "GET", "/openapi.json")
    assert status == 200
    assert set(document["paths"]) == {path.path for path in PATHS}
    for path in PATHS:
        operation = document["paths"][path.path][path.method.lower()]
        assert operation["summary"]
        assert (operation["security"] == []) == path.is_open


@pytest.mark.slow
def test_nothing_that_fits_the_document_or_does_not_breaks_the_server(daemon):
    """`pip install schemathesis` beside the rest; CI does."""
    schemathesis = pytest.importorskip("schemathesis", reason="a large package; CI installs it")
    from hypothesis import HealthCheck, Phase, given, settings

    app = application(Api(daemon, patience_s=5), None)
    schema = schemathesis.openapi.from_dict(ask(app, "GET", "/openapi.json")[1])
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/tap"):
            continue

        @settings(max_examples=15, deadline=None, database=None, derandomize=True,
                  suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case):
            nonlocal count
            count += 1
            method, path, body, headers = request_of(case)
            status, _ = ask(app, method, path, body, headers)
            assert status < 500 or status == 503

        check()
    assert count > 100
    assert daemon.fleet.find("p").state == "serving"


def request_of(case):
    """A case of Schemathesis as this server would get it."""
    from urllib.parse import quote, urlencode

    names = {
        name: "p" if len(str(value)) % 2 else str(value)
        for name, value in (case.path_parameters or {}).items()
    }
    path = case.operation.path
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    if case.query:
        path += "?" + urlencode(case.query, doseq=True)
    body = None
    if type(case.body).__name__ != "NotSet":
        body = json.dumps(case.body).encode()
    return case.method, path, body, [(k.lower().encode("latin-1"), str(v).encode("latin-1", "replace"))
                                     for k, v in (case.headers or {}).items()]  # fmt: skip
