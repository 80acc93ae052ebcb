"""Data files: the user's own come first, the rest is fetched once, and no other bytes than the known ones get in."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ravl_core.domains import files
from ravl_core.domains.files import data_file, data_folder

KNOWN = files.SOURCES, files.SHA256  # before a test replaces them
CONTENT = b"what the file holds" * 1000


class Handler(BaseHTTPRequestHandler):
    """Answers with `server.answers[path]`: the bytes, and how many it claims they are."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path not in self.server.answers:
            self.send_error(404)
            return
        content, claimed = self.server.answers[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(claimed))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine, the two sources of the data set "tiny"."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.answers, served.asked = {}, []
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{served.server_port}"
    monkeypatch.setattr(files, "SOURCES", {"tiny": (f"{address}/first/", f"{address}/second/")})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A project without data that knows one file, and no RAVL_DATA."""
    monkeypatch.setenv("RAVL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    monkeypatch.delenv("RAVL_DATA", raising=False)
    monkeypatch.setattr(files, "SHA256", {"tiny": {"numbers.gz": hashlib.sha256(CONTENT).hexdigest()}})
    monkeypatch.setattr(files, "SOURCES", {"tiny": ()})
    return tmp_path / "home"


def put(folder, content=CONTENT):
    path = folder / "tiny" / "numbers.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


RIGHT = (CONTENT, len(CONTENT))
BAD = {
    "absent": (None, "404"),
    "wrong": ((b"something else", 14), hashlib.sha256(b"something else").hexdigest()),
    "cut short": ((CONTENT[:5000], len(CONTENT)), "IncompleteRead"),
    "short and content with it": ((CONTENT[:5000], 5000), hashlib.sha256(CONTENT[:5000]).hexdigest()),
}


# ---- where files are looked for ----


def test_the_folder_is_ravl_data_else_a_cache_in_the_project(home, tmp_path, monkeypatch):
    assert data_folder() == home / ".cache" / "data"
    monkeypatch.setenv("RAVL_DATA", str(tmp_path / "mine"))
    assert data_folder() == tmp_path / "mine"


def test_a_relative_ravl_data_counts_from_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_DATA", "../mine")
    monkeypatch.chdir(tmp_path)
    assert data_folder() == tmp_path / "mine"


def test_the_users_own_file_is_taken_where_it_lies(server, home, tmp_path, monkeypatch):
    own = put(tmp_path / "mine")
    monkeypatch.setenv("RAVL_DATA", str(tmp_path / "mine"))
    assert data_file("tiny", "numbers.gz") == own
    assert server.asked == [] and not home.exists()


def test_a_users_file_with_other_bytes_is_an_error_that_names_it(server, tmp_path, monkeypatch):
    own = put(tmp_path / "mine", b"damaged")
    monkeypatch.setenv("RAVL_DATA", str(tmp_path / "mine"))
    with pytest.raises(ValueError) as raised:
        data_file("tiny", "numbers.gz")
    for part in (str(own), hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(b"damaged").hexdigest()):
        assert part in str(raised.value)
    assert server.asked == []


def test_the_users_file_is_read_once(tmp_path, monkeypatch):
    own = put(tmp_path / "mine")
    monkeypatch.setenv("RAVL_DATA", str(tmp_path / "mine"))
    data_file("tiny", "numbers.gz")
    own.write_bytes(b"read again, this would be an error")
    assert data_file("tiny", "numbers.gz") == own


def test_what_the_users_folder_lacks_is_fetched_into_the_cache(server, home, tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_DATA", str(tmp_path / "mine"))
    server.answers["/first/numbers.gz"] = RIGHT
    assert data_file("tiny", "numbers.gz") == home / ".cache" / "data" / "tiny" / "numbers.gz"
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("dataset, name", [("tiney", "numbers.gz"), ("tiny", "number.gz")])
def test_an_unknown_file_is_answered_with_the_nearest(dataset, name):
    with pytest.raises(ValueError, match="did you mean '(tiny|numbers.gz)'"):
        data_file(dataset, name)


# ---- fetching ----


def test_a_file_is_fetched_once(server, home):
    server.answers["/first/numbers.gz"] = RIGHT
    path = data_file("tiny", "numbers.gz")
    assert path.read_bytes() == CONTENT and data_file("tiny", "numbers.gz") == path
    assert server.asked == ["/first/numbers.gz"] and files_in(home) == [path]


@pytest.mark.parametrize("answer", [answer for answer, _ in BAD.values()], ids=BAD)
def test_the_second_source_serves_where_the_first_does_not(server, home, answer):
    if answer:
        server.answers["/first/numbers.gz"] = answer
    server.answers["/second/numbers.gz"] = RIGHT
    path = data_file("tiny", "numbers.gz")
    assert path.read_bytes() == CONTENT and files_in(home) == [path]
    assert server.asked == ["/first/numbers.gz", "/second/numbers.gz"]


@pytest.mark.parametrize("answer, reason", BAD.values(), ids=BAD)
def test_what_cannot_be_had_leaves_nothing_behind_and_says_why(server, home, tmp_path, monkeypatch, answer, reason):
    monkeypatch.setenv("RAVL_DATA", str(tmp_path / "mine"))
    if answer:
        server.answers = {f"/{source}/numbers.gz": answer for source in ("first", "second")}
    with pytest.raises(FileNotFoundError) as raised:
        data_file("tiny", "numbers.gz")
    assert "RAVL_DATA" in str(raised.value) and "tiny/numbers.gz" in str(raised.value)
    own, *sources = str(raised.value).splitlines()[1:]
    assert own == f"  {tmp_path / 'mine' / 'tiny' / 'numbers.gz'}: no such file"
    for line, url in zip(sources, files.SOURCES["tiny"], strict=True):
        assert line.startswith(f"  {url}numbers.gz: ") and reason in line
    assert files_in(home) == []


def test_without_a_network_the_error_is_the_same(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(FileNotFoundError, match="(?s)tiny/numbers.gz could not be had.*/first/.*refused.*/second/"):
        data_file("tiny", "numbers.gz")


def test_a_damaged_file_in_the_cache_is_fetched_again(server, home):
    server.answers["/first/numbers.gz"] = RIGHT
    path = put(home / ".cache" / "data", b"damaged")
    assert data_file("tiny", "numbers.gz").read_bytes() == path.read_bytes() == CONTENT


@pytest.mark.parametrize("progress, shown", [("off", False), ("", True)])
def test_the_progress_bar_can_be_silenced(server, monkeypatch, capfd, progress, shown):
    monkeypatch.setenv("RAVL_PROGRESS", progress)
    server.answers["/first/numbers.gz"] = RIGHT
    data_file("tiny", "numbers.gz")
    out, err = capfd.readouterr()
    assert out == "" and bool(err) == shown


def test_mnist_and_fashion_mnist_have_two_sources_and_four_checksums():
    sources, checksums = KNOWN
    assert sources.keys() == checksums.keys() >= {"mnist", "fashion_mnist"}
    for dataset in ("mnist", "fashion_mnist"):
        assert len(set(sources[dataset])) == 2 and all(url.endswith("/") for url in sources[dataset])
        assert len(set(checksums[dataset].values())) == 4
        assert all(len(bytes.fromhex(checksum)) == 32 for checksum in checksums[dataset].values())
