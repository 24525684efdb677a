import threading
from hashlib import md5
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bezoar.data import download, load
from bezoar.data.download import Remote, fetch

CONTENT = bytes(range(256)) * 40
KEY = "toy/images.gz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        promised = {"/whole": len(CONTENT), "/cut": len(CONTENT) + 1}.get(self.path)
        self.send_response(200 if promised else 404)
        self.send_header("Content-Length", str(promised or 0))
        self.end_headers()
        self.wfile.write(CONTENT if promised else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """Address of a server on this machine that sends a file whole, or closes too early."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def _offer(monkeypatch, url, checksum=None):
    remote = Remote(url, checksum or md5(CONTENT).hexdigest())
    monkeypatch.setattr(download, "REMOTES", {KEY: remote})


def test_downloads_a_missing_file(server, monkeypatch, tmp_path):
    _offer(monkeypatch, f"{server}/whole")
    path = fetch(tmp_path / "root", KEY)
    assert path == tmp_path / "root" / KEY
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_there_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "REMOTES", {})
    path = tmp_path / KEY
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert fetch(tmp_path, KEY).read_bytes() == b"mine"


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, monkeypatch, tmp_path):
    _offer(monkeypatch, f"{server}/whole", "0" * 32)
    with pytest.raises(
        ValueError, match="whole: downloaded file has another checksum: expected md5 0"
    ):
        fetch(tmp_path / "root", KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", ["cut", "missing"])
def test_a_failed_download_leaves_nothing(server, monkeypatch, tmp_path, page):
    _offer(monkeypatch, f"{server}/{page}")
    expected = (
        rf"images.gz: no such file, and fetching {server}/{page} failed .*: expected {KEY} in "
    )
    with pytest.raises(FileNotFoundError, match=expected):
        fetch(tmp_path / "root", KEY)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_says_what_belongs_where(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    key = "mnist/train-images-idx3-ubyte.gz"
    # Port 9 of this machine: nobody listens.
    monkeypatch.setattr(download, "REMOTES", {key: Remote("http://127.0.0.1:9/file", "0" * 32)})
    with pytest.raises(
        FileNotFoundError, match=rf"expected {key} in .*--data-root DIR or BEZOAR_DATA"
    ):
        load("mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(server, monkeypatch, tmp_path):
    _offer(monkeypatch, f"{server}/whole")
    (tmp_path / "toy").write_text("a file where the folder should be")
    with pytest.raises(FileNotFoundError, match=r"images.gz: no such file, and fetching .*failed"):
        fetch(tmp_path, KEY)


def test_every_set_on_the_list_has_a_checksum_and_a_place():
    assert {key.split("/")[0] for key in download.REMOTES} == {"mnist", "fashion-mnist", "cifar10"}
    assert all(len(remote.md5) == 32 for remote in download.REMOTES.values())
    assert all(remote.url.endswith(key.split("/")[1]) for key, remote in download.REMOTES.items())
