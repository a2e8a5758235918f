"""What is kept on the disk is what would be computed, and nothing that lies there can change a truth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from antisymrnn_validation.truth import store
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.extended import wider

DIGEST = store._DIGEST


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is cached, and the one for truths in it."""
    monkeypatch.setenv(store.VARIABLE, str(tmp_path))
    store._Size.of.cache_clear()
    return tmp_path / "truths"


def a_case(cell: str = "gated", seed: int = 1, **options: object) -> Case:
    return random_case(cell, 3, 2, 3, 2, step_size=0.3, diffusion=0.2, seed=seed, **options)


def same(one: store.Known, other: store.Known) -> bool:
    pairs = [(one.truth.arrays[name], entry) for name, entry in other.truth.arrays.items()]
    return (
        one.truth.arrays.keys() == other.truth.arrays.keys()
        and one.truth.precision == other.truth.precision
        and one.perturbed == other.perturbed
        and all(p[2:] == q[2:] for p, q in pairs)
        and all(
            np.array_equal(a, b) and a.shape == b.shape for p, q in pairs for a, b in zip(p[:2], q[:2], strict=True)
        )
    )


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that are computed from now on."""
    made: list[Case] = []
    compute = store._computed
    monkeypatch.setattr(store, "_computed", lambda case: (made.append(case), compute(case))[1])
    return made


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_a_second_call_reads_what_the_first_wrote_to_the_bit(
    cell: str, dtype: type, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    case = a_case(cell, dtype=dtype)
    first, second = store.certified(case), store.certified(case._replace(name="another name"))
    assert len(made) == 1
    assert same(first, second)
    assert [path.suffix for path in folder.iterdir()] == [".truth"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_truth_of_a_wider_dtype_is_kept_too_and_a_small_one_is_not(
    dtype: type, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = wider(np.dtype(dtype))
    if wide is None:
        pytest.skip("longdouble is no wider than float64 here")
    case = a_case(dtype=dtype)
    first = store.extended(case, wide)
    assert not folder.exists()
    monkeypatch.setattr(store, "LARGE", 15)
    assert same(store.extended(case, wide), first)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(store.wider_runs, "extended", None)
    assert same(store.extended(case, wide), first)
    assert any(entry.low.any() for entry in first.truth.arrays.values()) == (dtype == np.float64)
    store.certified(case)
    assert len(list(folder.iterdir())) == 2  # that of balls is another


def test_numbers_that_json_has_no_notation_for_survive(folder: Path) -> None:
    case = a_case()
    found = store._computed(case)
    perturbed = [dict.fromkeys(run, float("inf")) for run in found.perturbed]
    assert same(
        store._unpacked("key", store._packed("key", found._replace(perturbed=perturbed))),
        (found._replace(perturbed=perturbed)),
    )
    assert not folder.exists()


def test_another_case_is_another_file(folder: Path) -> None:
    for seed in (1, 2):
        store.certified(a_case(seed=seed))
    assert len(list(folder.iterdir())) == 2


def test_another_version_of_the_oracles_is_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.certified(a_case())
    version = store._version()
    store._version.cache_clear()
    monkeypatch.setattr(store.flint, "__version__", "another")
    assert store._version() != version
    store.certified(a_case())
    assert len(list(folder.iterdir())) == 2
    monkeypatch.undo()
    store._version.cache_clear()
    assert store._version() == version


def resealed(content: bytes) -> bytes:
    return store._digest(content) + content


def header_changed(packed: bytes, **changes: object) -> bytes:
    line, rest = packed[DIGEST:].split(b"\n", 1)
    return resealed(json.dumps(json.loads(line) | changes).encode() + b"\n" + rest)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-8],
        lambda packed: packed + b"\0" * 8,
        lambda packed: packed[:10],
        lambda _: b"",
        lambda packed: packed[:-1] + bytes([packed[-1] ^ 1]),
        lambda packed: bytes([packed[0] ^ 1]) + packed[1:],
        lambda packed: packed[:80] + bytes([packed[80] ^ 1]) + packed[81:],
        lambda _: resealed(b"not JSON\n"),
        lambda _: resealed(b"[]\n"),
        lambda _: resealed(b"{}\n"),
        lambda packed: resealed(packed[DIGEST:-8]),
        lambda packed: header_changed(packed, key="that of another case"),
        lambda packed: header_changed(packed, numbers={}),
        lambda _: b"\x80\x04\x95 a pickle",
    ],
)
def test_a_file_that_is_not_whole_or_not_from_here_is_computed_again(
    damage: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.certified(a_case())
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    made = counted(monkeypatch)
    assert same(store.certified(a_case()), first)
    assert same(store.certified(a_case()), first)
    assert len(made) == 1  # the second call reads what took its place


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "file"))
    made = counted(monkeypatch)
    assert same(store.certified(a_case()), store.certified(a_case()))
    assert len(made) == 2


def test_a_folder_in_the_place_of_a_file_is_no_error(folder: Path) -> None:
    first = store.certified(a_case())
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    assert same(store.certified(a_case()), first)


def test_off_neither_reads_nor_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    with store.off():
        store.certified(a_case())
        assert not folder.exists()
        store.certified(a_case())
    assert len(made) == 2
    store.certified(a_case())
    assert folder.exists()


def test_what_was_not_used_for_longest_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    for seed in range(4):
        store.certified(a_case(seed=seed))
        (path,) = set(folder.iterdir()) - set(written)
        os.utime(path, (seed, seed))
        written.append(path)
    size = written[0].stat().st_size
    foreign, half = folder / "notes.txt", folder / ".antisymrnn-0123.tmp"
    for path in (foreign, half):
        path.write_bytes(b"x" * size)
        os.utime(path, (2, 2))
    store.certified(a_case(seed=0))  # used again: no longer the oldest
    monkeypatch.setattr(store, "MOST_BYTES", 5.5 * size)
    store._Size.of.cache_clear()
    store.certified(a_case(seed=4))  # the sixth: down to four of them
    assert foreign.exists()  # of whatever else lies there nothing is touched
    # two files are as old as each other: the half written one and that of seed 2
    assert [path.exists() for path in (written[0], written[1], written[3])] == [True, False, True]
    assert [half.exists(), written[2].exists()].count(True) == 1


def test_the_platform_has_a_folder_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.VARIABLE)
    assert store.folder().parts[-2:] == ("antisymrnn", "truths")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setenv(store.VARIABLE, "")
    assert "antisymrnn" in store.folder().parts
