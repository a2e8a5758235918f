"""Fetch the official files: from the first mirror that has them, going on where a download broke off.

Pooch checks the SHA-256 and puts a file in its place, whole or not at all. What has come of a file that is not yet
whole stays beside it as ``NAME.part``; two downloads into one folder at the same time would both write there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from antisymrnn_validation.experiments import tasks
from antisymrnn_validation.experiments.data import CIFAR_ARCHIVE, DataError
from antisymrnn_validation.output import terminal


class Remote(NamedTuple):
    """An official file.

    Attributes
    ----------
    size : int
        Bytes.
    sha256 : str
    """

    size: int
    sha256: str


FILES = {
    "mnist": {
        "train-images-idx3-ubyte.gz": Remote(
            9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": Remote(
            28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte.gz": Remote(
            1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": Remote(4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
    # its MD5, as its authors state it: c32a1d4ab5d03f1284b67883e8d87530
    "cifar10": {
        CIFAR_ARCHIVE: Remote(170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    },
}
"""The official files, by the folder that they are put in."""

MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
}
"""Where they are, in the order in which they are tried."""

_FOLDERS = {"digits": None, "mnist": "mnist", "pmnist": "mnist", "cifar": "cifar10", "noise-padded": "cifar10"}
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
_CHUNK = 2**16


def download(task_name: str, folder: str | os.PathLike[str], *, mirrors: Sequence[str] | None = None) -> list[Path]:
    """Download the files of a task, those that are not there yet under the names below; other forms are not looked for.

    Parameters
    ----------
    task_name : str
        One of ``tasks.TASKS``; ``digits`` needs no file.
    folder : str or path
        The files are put in its folder ``mnist`` or ``cifar10``; both are made if need be. It is what
        ``tasks.load`` takes as ``data``.
    mirrors : sequence of str, optional
        Addresses that the name of a file is put behind, tried in this order. Default: ``MIRRORS``.

    Returns
    -------
    list of path
        The files, whole and with the stated SHA-256.

    Raises
    ------
    DataError
        If no mirror gives a file, or it cannot be written; the message says why each mirror failed.
    ValueError
        If there is no such task.
    """
    tasks.check_name(task_name)
    kind = _FOLDERS[task_name]
    if kind is None:
        return []
    bases = MIRRORS[kind] if mirrors is None else mirrors
    targets = [Path(folder) / kind / name for name in FILES[kind]]
    for target in targets:
        try:
            _from_any(bases, target, FILES[kind][target.name])
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror or error}") from None
    return targets


def _from_any(bases: Sequence[str], target: Path, remote: Remote) -> None:
    """One file from the first mirror that has it."""
    import requests
    import urllib3

    failures = []
    for base in bases:
        url = f"{base.rstrip('/')}/{target.name}"
        for resumed in (_part(target).exists(), False):
            try:
                return _retrieve(url, target, remote)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                failures.append(f"{url}: {_brief(error)}")
                break
            except ValueError:  # how pooch says that the checksum is another one; it leaves nothing behind
                if not resumed:  # else what was there before may be to blame: once more, from the start
                    failures.append(f"{url}: not the file with SHA-256 {remote.sha256}")
                    break
    raise DataError(f"{target}: no mirror gave it: {'; '.join(failures) or 'there is none'}")


def _retrieve(url: str, target: Path, remote: Remote) -> None:
    import pooch

    def downloader(url: str, output_file: str, _: object) -> None:
        _transfer(url, _part(target), remote.size)
        os.replace(_part(target), output_file)

    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest
    pooch.retrieve(url, f"sha256:{remote.sha256}", fname=target.name, path=target.parent, downloader=downloader)


def _transfer(url: str, part: Path, size: int) -> None:
    """Bring a partial file to its full size; what was received stays when the connection breaks."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    if have == size:
        return
    headers = {"Accept-Encoding": "identity"}  # the bytes of the file, not unpacked on the way
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        if have and not (
            response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        ):
            have = 0  # the server sent all of it
        with open(part, "ab" if have else "wb") as file, terminal.progress_of_bytes(part.stem, have, size) as advance:
            for piece in response.raw.stream(_CHUNK, decode_content=False):
                have += len(piece)
                if have > size:
                    break
                file.write(piece)
                advance(len(piece))
    if have > size:
        part.unlink()
        raise requests.RequestException(f"expected {size} bytes, got more")
    if have < size:
        raise requests.RequestException(f"expected {size} bytes, got {have}")


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _brief(error: Exception) -> str:
    """One line of an error of the network."""
    return " ".join(str(error).split())[:200] or type(error).__name__
