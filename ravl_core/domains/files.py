"""Data files: taken from the user's own folder, else fetched once. Either way they hold the bytes that are known."""

import hashlib
import os
from functools import cache
from pathlib import Path

from ravl_core import paths
from ravl_core.checks import choice

SOURCES = {  # tried in turn
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion_mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
}
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}


def data_folder() -> Path:
    """Where data sets lie, one folder each: RAVL_DATA, else `.cache/data` of the project.

    A relative RAVL_DATA counts from the project, so that notebooks and scripts mean the same folder.
    """
    chosen = os.environ.get("RAVL_DATA")
    return (paths.home() / Path(chosen).expanduser()).resolve() if chosen else _fetched()


def data_file(dataset: str, name: str) -> Path:
    """The file `<dataset>/<name>` of RAVL_DATA, else of `.cache/data`, where it is fetched to if it is absent.

    Raises
    ------
    ValueError
        No such data set or file is known, or the file in RAVL_DATA does not have the bytes it is known by.
    FileNotFoundError
        The file is nowhere, and no source gave it; the message says why each did not.
    """
    expected = SHA256[choice("dataset", dataset, SHA256)][choice("name", name, SHA256[dataset])]
    failures = []
    if os.environ.get("RAVL_DATA"):
        own = data_folder() / dataset / name
        if own.is_file():
            return _checked(own, expected)
        failures.append(f"{own}: no such file")
    for source in SOURCES[dataset]:
        try:
            return _fetch(source + name, _fetched() / dataset / name, expected)
        except (OSError, ValueError) as error:  # no network, an answer such as 404, a full disk; other bytes
            failures.append(f"{source}{name}: {error}")
    raise FileNotFoundError(
        f"{dataset}/{name} could not be had. Let RAVL_DATA name a folder that holds it as {dataset}/{name}, or try "
        "again with a network. Tried:\n  " + "\n  ".join(failures)
    )


def _fetched() -> Path:
    return paths.home() / ".cache" / "data"


@cache
def _checked(path: Path, expected: str) -> Path:
    """The path, once its bytes have been compared in this process."""
    with open(path, "rb") as file:
        came = hashlib.file_digest(file, "sha256").hexdigest()
    if came != expected:
        raise ValueError(f"{path}: expected a file with SHA256 {expected}, got {came}")
    return path


def _fetch(url: str, path: Path, expected: str) -> Path:
    """Download under a temporary name; the file takes its place only with the right bytes. Nothing if it is there."""
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would name folders of this machine in executed notebooks
    downloader = pooch.HTTPDownloader(progressbar=os.environ.get("RAVL_PROGRESS") != "off", chunk_size=2**16)
    return Path(pooch.retrieve(url, expected, path.name, path.parent, downloader=downloader))
