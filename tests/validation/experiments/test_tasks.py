"""Every way a data file can be wrong has its own sentence; real files, bundled digits and tasks are as stated."""

import contextlib
import gzip
import hashlib
import http.server
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from antisymrnn_validation.experiments import data, downloading, tasks
from antisymrnn_validation.experiments.data import DataError

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
MNIST = os.environ.get("ANTISYMRNN_DATA")
needs_mnist = pytest.mark.skipif(not MNIST, reason="ANTISYMRNN_DATA is not set: no real MNIST files")


def idx(array, sizes=None):
    """The bytes of an IDX file, with the true sizes or others."""
    sizes = array.shape if sizes is None else sizes
    return bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes) + array.tobytes()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)


@pytest.fixture
def labels():
    return np.array([3, 1, 4, 1, 5, 9, 0], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, images, labels):
    (tmp_path / IMAGES).write_bytes(gzip.compress(idx(images)))
    (tmp_path / LABELS).write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def refused(folder, *words, split="test"):
    """The message with which the folder is refused; it names everything in ``words``."""
    with pytest.raises(DataError) as caught:
        data.load_mnist(folder, split)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_small_files_come_back_whole(folder, images, labels):
    loaded = data.load_mnist(folder)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert (loaded.images.dtype, loaded.labels.dtype, loaded.scale) == (np.uint8, np.uint8, 255.0)
    assert loaded.name == "MNIST"


def test_the_parent_of_a_folder_mnist_will_do(folder, images):
    (folder / "mnist").mkdir()
    for name in (IMAGES, LABELS):
        (folder / name).rename(folder / "mnist" / name)
    np.testing.assert_array_equal(data.load_mnist(str(folder)).images, images)


def test_a_file_of_several_gzip_members_is_read_whole(folder, images):
    content = idx(images)
    (folder / IMAGES).write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    np.testing.assert_array_equal(data.load_mnist(folder).images, images)


def test_missing_directory(tmp_path):
    refused(tmp_path / "nowhere", "nowhere: expected a directory with the MNIST files, got nothing; antisymrnn")


def test_a_name_longer_than_the_file_system_takes(tmp_path):
    refused(tmp_path / ("a" * 5000), "expected a directory", "got nothing")


def test_file_for_a_directory(folder):
    refused(folder / IMAGES, "expected a directory with the MNIST files, got a file")


def test_missing_files_are_listed(folder):
    message = refused(
        folder,
        "missing train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz; ",
        "; antisymrnn train TASK --data DIR --download fetches them",
        split="train",
    )
    assert str(folder) in message
    (folder / LABELS).unlink()
    assert f"missing {LABELS}" in refused(folder, str(folder))
    assert f"missing {IMAGES}" not in refused(folder)


def test_unpacked_file_beside_a_missing_one_is_recognised(folder, labels):
    (folder / LABELS).unlink()
    (folder / LABELS[:-3]).write_bytes(idx(labels))
    refused(folder, f"missing {LABELS}", f"; {folder / LABELS[:-3]} is there, but is not compressed: gzip -c ")


def compressed(content):
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "pack", "wrong"),
    [
        ("t10k-labels.idx1-ubyte.gz", compressed, "has another name: mv"),
        ("t10k-labels.idx1-ubyte", bytes, "is not compressed and has another name: gzip -c"),
        ("T10K-labels-idx1-ubyte.GZ", compressed, "has another name: mv"),
        ("t10k-labels-idx1-ubyte/t10k-labels-idx1-ubyte", bytes, "is not compressed and is in another folder: gzip -c"),
        ("raw files/t10k-labels-idx1-ubyte.gz", compressed, "is in another folder: mv"),
        ("mnist/t10k-labels-idx1-ubyte.gz", compressed, "is in another folder: mv"),
    ],
)
def test_a_file_that_is_nearly_there_is_named_with_the_way_to_use_it(folder, labels, name, pack, wrong):
    (folder / LABELS).unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pack(idx(labels)))
    message = refused(folder, f"missing {LABELS}; {folder / name} is there, but {wrong} ")
    subprocess.run(message.partition(": ")[2].rpartition(": ")[2], shell=True, check=True)
    assert len(data.load_mnist(folder).labels) == len(labels)


def test_what_is_no_file_is_not_taken_for_one_that_is_nearly_there(folder):
    (folder / LABELS).unlink()
    (folder / LABELS[:-3]).mkdir()
    (folder / "other-labels-idx1-ubyte.gz").touch()
    assert "is there" not in refused(folder, f"missing {LABELS}; ", "--download")


def test_unknown_split(folder):
    with pytest.raises(ValueError, match="split: expected train or test, got 'valid'"):
        data.load_mnist(folder, "valid")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got an empty file"),
        (
            b"<!DOCTYPE html>",
            "expected a gzip-compressed IDX file, as downloaded, got a web page, saved under this name",
        ),
        (b"\n<html><head>", "got a web page, saved under this name; antisymrnn train TASK --data DIR --download"),
        (b"version https://git-lfs.github.com/spec/v1", "got a pointer of Git LFS in place of the file"),
        (b"PK\3\4" + bytes(30), "got a zip archive"),
        (b"<svg", "got a file that starts with b'<svg'"),
        (b"\0\0\x08\x01\0\0\0\x01\x05", "got an IDX file that is not compressed"),
        (b"\x1f", "got a file that starts with b'\\x1f'"),
        (b"\x1f\x8b", "cut off"),
        (b"\x1f\x8b\x07\0\0\0\0\0\0\0\0\0", "damaged"),
        (gzip.compress(b"", mtime=0), "expected a magic number of 4 bytes, got 0 bytes"),
        (gzip.compress(b"\0\0\x08", mtime=0), "expected a magic number of 4 bytes, got 3 bytes"),
        (gzip.compress(b"\x89PNG.....", mtime=0), "got magic 0x89504e47"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", mtime=0), "got magic 0x00000d01"),
        (gzip.compress(b"\0\0\x08\x02" + bytes(8), mtime=0), "got magic 0x00000802"),
        (gzip.compress(b"\0\0\x08\x00", mtime=0), "got magic 0x00000800"),
        (gzip.compress(b"\0\0\x08\x03\0\0\0\x07\0\0", mtime=0), "expected 3 sizes in the IDX header, got 6 bytes"),
        (gzip.compress(b"\0\0\x08\x01" + bytes(4), mtime=0), "got a header that promises 0 = 0"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8, mtime=0), "got a header that promises 0 x 4294967295"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[-28:],
)
def test_not_an_idx_file(folder, name, content, words):
    (folder / name).write_bytes(content)
    message = refused(folder, words)
    assert message.startswith(str(folder / name))


def test_wrong_magic_says_what_was_expected(folder):
    (folder / IMAGES).write_bytes(gzip.compress(b"nonsense"))
    refused(folder, "labels (IDX magic 0x00000801) or images (IDX magic 0x00000803)", "got magic 0x6e6f6e73")


def test_header_promises_more_than_the_file_has(folder, images):
    (folder / IMAGES).write_bytes(gzip.compress(idx(images, (8, 28, 28))))
    refused(folder, IMAGES, "expected 8 x 28 x 28 = 6272 bytes after the IDX header, got 5488 bytes")


def test_header_promises_less_than_the_file_has(folder, images):
    (folder / IMAGES).write_bytes(gzip.compress(idx(images, (6, 28, 28))))
    refused(folder, IMAGES, "expected 6 x 28 x 28 = 4704 bytes after the IDX header, got more")
    (folder / IMAGES).write_bytes(gzip.compress(idx(images) + b"\0"))
    refused(folder, IMAGES, "expected 7 x 28 x 28 = 5488 bytes after the IDX header, got more")


@pytest.mark.parametrize("sizes", [(2**31, 28, 28), (2**32 - 1,) * 3, (2**31,), (2**30 + 1,), (1, 2**15 + 1, 2**15)])
def test_absurd_sizes_are_refused_without_allocating(folder, images, sizes):
    (folder / IMAGES).write_bytes(gzip.compress(idx(images, sizes)))
    assert peak(lambda: refused(folder, "expected 1 to 1073741824 entries", " x ".join(map(str, sizes)))) < 2**23


def test_memory_follows_the_file_and_not_the_header(folder, images):
    (folder / IMAGES).write_bytes(gzip.compress(idx(images, (2**20, 32, 32))))  # promises 1 GiB, the most allowed
    assert peak(lambda: refused(folder, "= 1073741824 bytes after the IDX header, got 5488 bytes")) < 2**23


def test_decompression_bomb_is_not_unpacked(folder, images):
    bomb = gzip.compress(idx(images) + bytes(2**28))  # 256 MiB of zeros behind a small header
    assert len(bomb) < 2**19
    (folder / IMAGES).write_bytes(bomb)
    assert peak(lambda: refused(folder, "got more")) < 2**23


def peak(call):
    """Largest memory in bytes that Python and NumPy held at once during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_every_truncation_is_refused(folder):
    whole = (folder / LABELS).read_bytes()
    for length in range(len(whole)):
        (folder / LABELS).write_bytes(whole[:length])
        refused(folder, LABELS)


def test_damage_never_escapes_as_another_error(folder, labels):
    """One byte changed anywhere: refused with a DataError, or harmless because gzip does not check that byte."""
    whole = (folder / LABELS).read_bytes()
    refusals = 0
    for position in range(len(whole)):
        for value in (0, 0xFF, whole[position] ^ 1):
            (folder / LABELS).write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                np.testing.assert_array_equal(data.load_mnist(folder).labels, labels)
            except DataError:
                refusals += 1
    assert refusals > len(whole)


def test_damaged_checksum(folder):
    whole = (folder / LABELS).read_bytes()
    (folder / LABELS).write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    refused(folder, LABELS, "damaged", "CRC")


def test_labels_where_images_are_expected_and_the_other_way_round(folder):
    shutil.copy(folder / LABELS, folder / IMAGES)
    refused(folder, IMAGES, "expected images", "got labels", "swapped")


def test_images_where_labels_are_expected(folder):
    shutil.copy(folder / IMAGES, folder / LABELS)
    refused(folder, LABELS, "expected labels", "got images", "swapped")


def test_count_of_labels(folder, labels):
    (folder / LABELS).write_bytes(gzip.compress(idx(labels[:-1])))
    refused(folder, LABELS, "expected 7 labels, one for each image in t10k-images-idx3-ubyte.gz, got 6")


def test_label_out_of_range(folder, labels):
    labels[4] = 10
    (folder / LABELS).write_bytes(gzip.compress(idx(labels)))
    refused(folder, LABELS, "expected labels 0 to 9, got 10")


@pytest.mark.parametrize("shape", [(7, 27, 28), (7, 28, 27), (7, 32, 32), (7, 784, 1)])
def test_size_of_images(folder, shape):
    (folder / IMAGES).write_bytes(gzip.compress(idx(np.zeros(shape, np.uint8))))
    refused(folder, IMAGES, f"expected images of 28 x 28 pixels, got {shape[1]} x {shape[2]}")


def test_directory_or_pipe_in_the_place_of_a_file(folder):
    (folder / LABELS).unlink()
    (folder / LABELS).mkdir()
    refused(folder, LABELS, "got a directory")
    (folder / LABELS).rmdir()
    os.mkfifo(folder / LABELS)
    refused(folder, LABELS, "got a special file")  # opening it would wait for ever


def test_read_idx_of_nothing(tmp_path):
    with pytest.raises(DataError, match=r"none\.gz: expected a gzip-compressed IDX file, got nothing"):
        data.read_idx(tmp_path / "none.gz")


def test_file_that_the_system_cannot_read(folder, monkeypatch):
    def failing_open(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", failing_open)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        data.read_idx(folder / LABELS)


def test_pixel_sequences_are_scanlines(folder, images):
    loaded = data.load_mnist(folder)
    x = tasks.pixel_sequences(loaded, [5, 2, 5])
    assert (x.shape, x.dtype) == ((784, 3, 1), np.float64)
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x[:, 0], x[:, 2])
    for t in (0, 1, 27, 28, 29, 783):
        assert x[t, 1, 0] == images[2, t // 28, t % 28] / 255.0
    assert tasks.pixel_sequences(loaded, []).shape == (784, 0, 1)


@pytest.mark.parametrize("index", [-1, 7])
def test_pixel_sequences_of_no_image(folder, index):
    with pytest.raises(IndexError, match=f"indices: expected 0 to 6, got {index}"):
        tasks.pixel_sequences(data.load_mnist(folder), [0, index])


def test_digits():
    digits = data.load_digits()
    assert (digits.images.shape, digits.images.dtype, digits.labels.dtype) == ((1797, 8, 8), np.uint8, np.uint8)
    assert (digits.images.max(), digits.scale, digits.name) == (16, 16.0, "digits")
    # counts as the data set's own description has them, class by class
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    x = tasks.pixel_sequences(digits, range(4))
    assert x.shape == (64, 4, 1)
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert x[10, 3, 0] == digits.images[3, 1, 2] / 16.0


@needs_mnist
@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_mnist_is_what_it_is(split, counts):
    mnist = data.load_mnist(MNIST, split)
    assert mnist.images.shape == (sum(counts), 28, 28)
    assert np.bincount(mnist.labels).tolist() == counts
    if split == "train":
        histogram = np.bincount(mnist.images.ravel(), minlength=256)
        pixels = np.arange(256) / 255
        mean = histogram @ pixels / histogram.sum()
        deviation = np.sqrt(histogram @ (pixels - mean) ** 2 / histogram.sum())
        assert (round(mean, 5), round(deviation, 5)) == (0.13066, 0.30811)


@needs_mnist
@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999, -1, -8])
def test_truncated_mnist_is_refused(tmp_path, name, kept):
    parent = Path(MNIST)
    folder = parent / "mnist" if (parent / "mnist").is_dir() else parent
    for other in (IMAGES, LABELS):
        shutil.copyfile(folder / other, tmp_path / other)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole)) if kept >= 0 else kept])
    refused(tmp_path, name, "empty" if kept == 0 else "cut off")


# Tasks


@pytest.fixture(scope="module")
def digits():
    return tasks.load("digits", None)


def colours(seed=0, count=6):
    """Images of noise in colour."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count, dtype=np.uint8)
    return data.Images(generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels, "colours", 255.0)


@pytest.fixture
def padded():
    return tasks._task("noise-padded", colours(), colours(1, 3))


def test_an_unknown_task_is_refused_with_what_is_close():
    with pytest.raises(ValueError, match="got 'pmist'; did you mean 'pmnist'\\?"):
        tasks.load("pmist", None)
    with pytest.raises(ValueError, match="did you mean 'noise-padded'"):
        tasks.load("noisepadded", None)
    with pytest.raises(ValueError, match="cifar, noise-padded, got 'imagenet'$"):
        tasks.load("imagenet", None)


@pytest.mark.parametrize("name", [name for name in tasks.TASKS if name != "digits"])
def test_a_task_without_its_files(name, tmp_path):
    with pytest.raises(DataError, match=f"{name}: expected a folder .*, got none: name it by --data DIR"):
        tasks.load(name, None)
    with pytest.raises(DataError, match="missing"):
        tasks.load(name, tmp_path)


def test_the_split_of_the_digits(digits):
    assert (digits.name, digits.T, digits.m, digits.classes) == ("digits", 64, 1, 10)
    assert np.bincount(digits.train_labels).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert np.bincount(digits.test_labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int64
    images = data.load_digits()
    fifth_zero = images.images[np.flatnonzero(images.labels == 0)[4]]
    k = int(np.flatnonzero(digits.test_labels == 0)[0])
    np.testing.assert_array_equal(tasks.sequences(digits, "test", [k], np.float64)[:, 0, 0], fifth_zero.ravel() / 16)
    both = np.concatenate([digits.train_pixels, digits.test_pixels])[:, :, 0]
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(images.images.reshape(-1, 64), axis=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sequences_are_new_contiguous_and_rounded_once(digits, dtype):
    x = tasks.sequences(digits, "train", np.array([3, 0, 3]), dtype)
    assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.owndata) == ((64, 3, 1), dtype, True, True)
    np.testing.assert_array_equal(x[:, 1, 0], (digits.train_pixels[0, :, 0] / 16).astype(dtype))
    np.testing.assert_array_equal(x[:, 0], x[:, 2])
    assert tasks.sequences(digits, "test", [], dtype).shape == (64, 0, 1)


def test_bad_arguments_of_sequences(digits, padded):
    with pytest.raises(ValueError, match="split: expected train or test, got 'valid'"):
        tasks.sequences(digits, "valid", [0], np.float32)
    with pytest.raises(ValueError, match="dtype: expected float32 or float64, got float16"):
        tasks.sequences(digits, "train", [0], np.float16)
    with pytest.raises(IndexError, match="indices: expected 0 to 354, got 355"):
        tasks.sequences(digits, "test", [0, 355], np.float32)
    with pytest.raises(IndexError, match="got -1"):
        tasks.sequences(digits, "test", [-1], np.float32)
    with pytest.raises(TypeError, match="indices: expected integers, got float64"):
        tasks.sequences(digits, "test", [0.5], np.float32)
    with pytest.raises(TypeError, match="indices: expected integers, got bool"):  # no mask
        tasks.sequences(digits, "test", [True, False], np.float32)
    with pytest.raises(ValueError, match="generator: expected a numpy Generator for the noise of noise-padded"):
        tasks.sequences(padded, "train", [0], np.float32)


def test_the_permutation_is_one_and_always_the_same():
    order = tasks.permutation()
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(784))
    stated = "80af0db09bbbf7a2a106fd06941f7934d319f01432a3369a9b7186a2212a4456"
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == stated
    assert np.mean(np.abs(np.diff(order))) == pytest.approx(784 / 3, rel=0.1)  # neighbours are torn apart


@pytest.mark.parametrize("split", ["train", "test"])
def test_permuted_mnist_has_the_pixels_of_mnist_in_another_order(images, labels, split):
    loaded = data.Images(images, labels, "MNIST", 255.0)
    plain, permuted = (tasks._task(name, loaded, loaded) for name in ("mnist", "pmnist"))
    x, y = (tasks.sequences(task, split, [4, 1], np.float32) for task in (plain, permuted))
    assert (permuted.T, permuted.m) == (784, 1)
    np.testing.assert_array_equal(y, x[tasks.permutation()])
    assert y.max() <= 1.0


def test_a_step_of_pixel_cifar_is_one_pixel():
    images = colours()
    task = tasks._task("cifar", images, images)
    x = tasks.sequences(task, "train", [2, 5], np.float64)
    assert (x.shape, task.T, task.m) == ((1024, 2, 3), 1024, 3)
    for t in (0, 1, 31, 32, 1023):
        np.testing.assert_array_equal(x[t, 1], images.images[5, t // 32, t % 32] / 255)


def test_the_first_test_sample_is_that_of_the_task(digits, folder, tmp_path, monkeypatch):
    np.testing.assert_array_equal(
        tasks.first_test_sample("digits", None), tasks.sequences(digits, "test", [0], np.float64)[:, 0]
    )
    monkeypatch.setattr(tasks, "load_cifar", lambda _, split: colours(1, 3) if split == "test" else colours())
    whole = tasks.sequences(tasks.load("noise-padded", tmp_path), "test", [0], np.float64, np.random.default_rng(0))
    np.testing.assert_array_equal(tasks.first_test_sample("noise-padded", tmp_path), whole[:32, 0])
    with pytest.raises(DataError, match="expected the official contents"):
        tasks.first_test_sample("pmnist", folder)
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        tasks.first_test_sample("minst", folder)


def test_pixels_are_followed_by_noise_or_cut():
    pixels = tasks.first_digit_rows()
    assert pixels.shape == (8, 8)
    assert pixels.max() == 0.9375  # 15 of 16, in the first digit
    x = tasks.followed_by_noise(pixels, 5000, np.random.default_rng(0))
    np.testing.assert_array_equal(x[:8], pixels)
    assert abs(x[8:].mean()) < 0.02
    assert abs(x[8:].std() - 1) < 0.02
    np.testing.assert_array_equal(tasks.followed_by_noise(pixels, 3, np.random.default_rng(0)), pixels[:3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_padded_is_rows_and_then_noise(padded, dtype):
    x = tasks.sequences(padded, "train", [2, 5], dtype, np.random.default_rng(0))
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((1000, 2, 96), dtype, True)
    images = colours().images
    for row, column, channel in [(0, 0, 0), (0, 0, 2), (0, 1, 0), (7, 30, 1), (31, 31, 2)]:
        assert x[row, 1, 3 * column + channel] == dtype(images[5, row, column, channel]) / dtype(255)
    noise = x[32:].astype(np.float64)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert abs((noise**4).mean() - 3) < 5 * np.sqrt(96 / noise.size)
    for other in (np.roll(noise, 1, 0), np.roll(noise, 1, 1), np.roll(noise, 1, 2)):  # steps, samples, inputs
        assert abs((noise * other).mean()) < 5 * np.sqrt(2 / noise.size)


def test_noise_is_fresh_for_every_sample_and_visit_and_repeats_for_a_state(padded):
    generator = np.random.default_rng(3)
    first, second = (tasks.sequences(padded, "test", [1, 1], np.float32, generator) for _ in range(2))
    np.testing.assert_array_equal(first[:32], second[:32])
    np.testing.assert_array_equal(first[:32, 0], first[:32, 1])
    assert np.mean(first[32:] == second[32:]) < 1e-3
    assert np.mean(first[32:, 0] == first[32:, 1]) < 1e-3
    again = tasks.sequences(padded, "test", [1, 1], np.float32, np.random.default_rng(3))
    np.testing.assert_array_equal(first, again)


# CIFAR-10 files

TRAIN, TEST, INSIDE = data._BATCHES["train"], data._BATCHES["test"][0], data._IN_ARCHIVE


@pytest.fixture
def batches(monkeypatch):
    """Batches of four records, as if they were the official ones."""
    monkeypatch.setattr(data, "_RECORDS", 4)
    generator = np.random.default_rng(0)
    made = {}
    for name in (*TRAIN, TEST):
        records = generator.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        made[name] = records.tobytes()
        monkeypatch.setitem(data.OFFICIAL, name, hashlib.sha256(made[name]).hexdigest())
    return made


def member(name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def archive(folder, members):
    path = folder / data.CIFAR_ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=1) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return path


def honest(batches):
    directory = member(INSIDE, type=tarfile.DIRTYPE)
    return [
        directory,
        member(f"{INSIDE}/readme.html", b"hello"),
        *(member(f"{INSIDE}/{n}", c) for n, c in batches.items()),
    ]


def cifar_refused(folder, *words, split="test"):
    """Refused with all the words in one line, and no file made anywhere."""
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        data.load_cifar(folder, split)
    assert sorted(folder.parent.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("place", ["", "cifar10", INSIDE, f"cifar10/{INSIDE}"])
@pytest.mark.parametrize(("end", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_batches_of_cifar(tmp_path, batches, place, end, pack):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in batches.items():
        (folder / (name + end)).write_bytes(pack(content))
    train, test = (data.load_cifar(tmp_path, split) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape, test.scale) == ((20, 32, 32, 3), (4, 32, 32, 3), 255.0)
    record = batches["data_batch_3.bin"][2 * 3073 : 3 * 3073]
    assert train.labels[10] == record[0]
    for row, column in [(0, 0), (0, 1), (5, 9), (31, 31)]:  # red, green and blue are 1024 bytes apart
        there = 1 + 32 * row + column
        assert train.images[10, row, column].tolist() == [record[there], record[there + 1024], record[there + 2048]]


@pytest.mark.parametrize("place", ["", "cifar10"])
def test_archive_of_cifar(tmp_path, batches, place):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    archive(folder, honest(batches))
    records = np.frombuffer(batches[TEST], np.uint8).reshape(4, 3073)
    test = data.load_cifar(tmp_path, "test")
    np.testing.assert_array_equal(test.labels, records[:, 0])
    np.testing.assert_array_equal(test.images[..., 1].reshape(4, -1), records[:, 1025:2049])
    task = tasks.load("cifar", tmp_path)
    assert (len(task.train_labels), len(task.test_labels)) == (20, 4)


def test_missing_cifar(tmp_path, batches):
    cifar_refused(tmp_path / "nowhere", "nowhere: expected a directory with the CIFAR-10 files, got nothing")
    for name in TRAIN[:3]:
        (tmp_path / name).write_bytes(batches[name])
    cifar_refused(
        tmp_path,
        "missing data_batch_4.bin and data_batch_5.bin; antisymrnn train TASK --data DIR --download",
        split="train",
    )
    with pytest.raises(ValueError, match="split: expected train or test, got 'valid'"):
        data.load_cifar(tmp_path, "valid")


@pytest.mark.parametrize(("end", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_damaged_batches(tmp_path, batches, end, pack):
    path, whole = tmp_path / (TEST + end), pack(batches[TEST])
    for content, words in [
        (b"", {"": "got 0 bytes", ".xz": "cut off", ".gz": "got an empty file"}[end]),
        (whole[: len(whole) // 2], "cut off" if end else "got 6146 bytes"),
        (pack(batches[TEST][:-1]), "expected 4 records of 3073 bytes = 12292 bytes, got 12291 bytes"),
        (pack(batches[TEST] + b"x"), "got more"),
        (pack(batches[TRAIN[0]]), "it holds what belongs in data_batch_1.bin: are two files swapped?"),
        (pack(b"\x0b" + batches[TEST][1:]), "expected labels 0 to 9, got 11"),
        (pack(batches[TEST][:-1] + bytes([batches[TEST][-1] ^ 1])), "expected the official contents"),
        (whole + b"junk" if end else whole + b"x", "damaged" if end else "got more"),
        (b"<!DOCTYPE html>", {"": "got 15 bytes", ".xz": "damaged", ".gz": "got a web page, saved under this"}[end]),
    ]:
        path.write_bytes(content)
        cifar_refused(tmp_path, str(path), words)
    path.unlink()
    path.mkdir()
    cifar_refused(tmp_path, "got a directory")


@pytest.mark.parametrize("end", [".xz", ".gz"])
def test_bombs_of_batches_are_not_unpacked(tmp_path, batches, end):
    bomb = batches[TEST] + bytes(2**25)
    packed = lzma.compress(bomb, preset=0) if end == ".xz" else gzip.compress(bomb, 1)
    (tmp_path / (TEST + end)).write_bytes(packed)
    assert peak(lambda: cifar_refused(tmp_path, "got more")) < 2**23


def test_nothing_is_behind_an_xz_file_not_even_in_another_piece():
    pieces = iter([lzma.compress(b"content"), b"junk"])
    stream = data._Xz(SimpleNamespace(read=lambda _: next(pieces)))
    assert stream.read(7) == b"content"
    with pytest.raises(lzma.LZMAError, match="behind the end"):
        stream.read(1)


def test_xz_that_asks_for_too_much_memory(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(data, "_XZ_MEMORY", 2**20)
    (tmp_path / f"{TEST}.xz").write_bytes(lzma.compress(batches[TEST]))
    cifar_refused(tmp_path, "damaged", "emory")


OUTSIDE = f"expected nothing outside {INSIDE}/"


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (member("../evil", b"x"), (OUTSIDE, "'../evil'")),
        (member(f"{INSIDE}/../evil", b"x"), (OUTSIDE, "evil")),
        (member(f"{INSIDE}/..", type=tarfile.DIRTYPE), (OUTSIDE,)),
        (member("/etc/evil", b"x"), (OUTSIDE, "'/etc/evil'")),
        (member(f"{INSIDE}\\..\\evil", b"x"), (OUTSIDE,)),
        (member(f"{INSIDE}/deep/er", b"x"), (OUTSIDE,)),
        (member("other/test_batch.bin", b"x"), (OUTSIDE,)),
        (member(f"{INSIDE}/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), ("is a link",)),
        (member(f"{INSIDE}/{TEST}", type=tarfile.SYMTYPE, linkname="/etc/passwd"), ("is a link", TEST)),
        (member(f"{INSIDE}/hard", type=tarfile.LNKTYPE, linkname=f"{INSIDE}/{TEST}"), ("is a link",)),
        (member(f"{INSIDE}/pipe", type=tarfile.FIFOTYPE), ("a device",)),
        (member(f"{INSIDE}/null", type=tarfile.CHRTYPE), ("a device",)),
        (member(f"{INSIDE}/sparse", pax_headers={"GNU.sparse.map": "x"}), ("expected an intact .tar.gz archive",)),
        (member(f"{INSIDE}/{TEST}", type=tarfile.DIRTYPE), (TEST, "got 0 bytes")),
        (member(f"{INSIDE}/{TEST}", b"short"), (TEST, "got 5 bytes")),
        (member(f"{INSIDE}/big", bytes(12293)), ("expected no file larger than 12292 bytes", "big")),
    ],
    ids=lambda value: value[0].name[-24:] if isinstance(value[0], tarfile.TarInfo) else None,
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_hostile_archives(tmp_path, batches, hostile, words, place):
    folder = tmp_path / "inner"
    folder.mkdir()
    members = [hostile, *honest(batches)] if place == "first" else [*honest(batches), hostile]
    path = archive(folder, members)
    cifar_refused(folder, str(path), *words)


def test_archives_that_are_not_whole(tmp_path, batches):
    path = archive(tmp_path, honest(batches))
    whole = path.read_bytes()
    for length in (0, 1, 5, 10, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:length])
        cifar_refused(tmp_path, str(path))
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    cifar_refused(tmp_path, "damaged", "CRC")
    path.write_bytes(b"<!DOCTYPE html>")
    cifar_refused(tmp_path, "expected an archive of CIFAR-10, as downloaded, got a web page, saved under this name")
    path.write_bytes(gzip.compress(b"not a tar" * 200))
    cifar_refused(tmp_path, "damaged")
    archive(tmp_path, honest({name: batches[name] for name in TRAIN}))
    cifar_refused(tmp_path, f"missing {TEST}")
    archive(tmp_path, [*honest(batches), member(f"{INSIDE}/{TEST}", batches[TEST])])
    cifar_refused(tmp_path, "once, got it twice")
    archive(tmp_path, honest(batches | {TEST: batches[TRAIN[0]]}))
    cifar_refused(tmp_path, TEST, "swapped")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "cifar-10-python.tar.gz",
            "is the Python version of CIFAR-10, which is not read: the binary version is needed",
        ),
        ("cifar-10-batches-py/data_batch_1", "cifar-10-batches-py is the Python version of CIFAR-10"),
        ("test_batch", "test_batch is the Python version of CIFAR-10"),
        ("cifar10/data_batch_3", "data_batch_3 is the Python version of CIFAR-10"),
        ("cifar-10-matlab.tar.gz", "is the MATLAB version of CIFAR-10"),
        ("downloads/test_batch.mat", "is the MATLAB version of CIFAR-10"),
        ("cifar-100-binary.tar.gz", "is CIFAR-100, which is not read"),
        ("CIFAR-10-binary.tar.gz", "is there, but has another name: mv "),
        ("cifar-10-binary.tar", "is there, but is not compressed: gzip -c "),
        ("downloads/cifar-10-binary.tar.gz", "is there, but is in another folder: mv "),
        ("downloads/Test_Batch.bin", "is there, but is in another folder and has another name: mv "),
    ],
)
def test_what_is_nearly_cifar_is_named(tmp_path, name, words):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x80\x02")
    cifar_refused(tmp_path, f"missing {TEST}; {tmp_path}", words, "; antisymrnn train TASK --data DIR --download")


def test_an_archive_of_the_python_version_under_the_name_of_the_binary_one(tmp_path):
    archive(tmp_path, [member("cifar-10-batches-py", type=tarfile.DIRTYPE)])
    cifar_refused(tmp_path, "got 'cifar-10-batches-py': this is the Python version of CIFAR-10, the binary version is")


def test_bombs_of_archives(tmp_path, batches, monkeypatch):
    monkeypatch.setattr(data, "_LARGEST_ARCHIVE", 2**20)
    path = archive(tmp_path, honest(batches))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**26), 1))  # zeros behind the end
    assert peak(lambda: cifar_refused(tmp_path, "expected at most 1048576 bytes when unpacked")) < 2**24
    info = tarfile.TarInfo("././@LongLink")  # a name of 64 MiB, which tarfile would read whole
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**26
    path.write_bytes(gzip.compress(info.tobuf() + bytes(2**26), 1))
    assert peak(lambda: cifar_refused(tmp_path, "expected at most 1048576 bytes when unpacked")) < 2**24


def test_an_archive_whose_headers_nest_too_deep(tmp_path, batches):
    path = archive(tmp_path, honest(batches))
    info = tarfile.TarInfo("././@LongLink")  # each says that the name of the next one follows
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    path.write_bytes(gzip.compress((info.tobuf() + bytes(512)) * 2000 + gzip.decompress(path.read_bytes()), 1))
    cifar_refused(tmp_path, "expected an intact .tar.gz archive", "recursion")


def test_damage_of_an_archive_never_escapes_as_another_error(tmp_path, batches):
    """One byte of the first two headers or of the end changed; gzip's checksum is right, so that tarfile sees it."""
    path = archive(tmp_path, honest(batches))
    whole, generator, refused = gzip.decompress(path.read_bytes()), np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[int(generator.integers(-1024, 1024))] = int(generator.integers(256))
        path.write_bytes(gzip.compress(bytes(damaged), 1))
        try:
            data.load_cifar(tmp_path, "train")
        except DataError:
            refused += 1
    assert refused > 50


def test_official_mnist_only(folder, images, monkeypatch):
    with pytest.raises(DataError, match=f"{IMAGES}: expected the official contents"):
        data.load_mnist(folder, official=True)
    monkeypatch.setitem(data.OFFICIAL, IMAGES, hashlib.sha256(images).hexdigest())
    with pytest.raises(DataError, match=f"{LABELS}: expected the official contents"):
        data.load_mnist(folder, official=True)


# Downloads


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves what ``server.files`` has; ``server.ways`` says for a folder how it misbehaves."""

    def do_GET(self):
        folder, name = self.path.strip("/").split("/")
        way, content = self.server.ways.get(folder, ""), self.server.files.get(name)
        asked = self.headers.get("Range")
        self.server.seen.append((folder, name, asked))
        if way == "silent":
            self.server.ended.wait(10)
            return
        if way == "missing" or content is None:
            self.send_error(404)
            return
        if way == "wrong":
            content = bytes(len(content))
        if way == "longer":
            content += b"more"
        if "gzip" in self.headers["Accept-Encoding"]:
            content = gzip.compress(content)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and way not in ("whole", "another range") else 0
        ranged = start or (asked and way == "another range")
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + (len(content) - start) // 2 if way == "cut" else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A mirror on the loopback address with two small files in the place of the official ones."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    generator = np.random.default_rng(0)
    files = {name: generator.bytes(200_000) for name in ("one.gz", "two.gz")}
    stated = {n: downloading.Remote(len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()}
    monkeypatch.setitem(downloading.FILES, "mnist", stated)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as made:
        made.files, made.ways, made.seen, made.ended = files, {}, [], threading.Event()
        made.url = f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.ended.set()
        made.shutdown()
        thread.join()


def fetch(server, folder, *mirrors):
    return downloading.download("pmnist", folder, mirrors=[f"{server.url}/{mirror}/" for mirror in mirrors])


def whole(server, folder):
    """Whether the folder holds the files, whole, and nothing else."""
    return {path.name: path.read_bytes() for path in (folder / "mnist").iterdir()} == server.files


def test_download(server, tmp_path):
    paths = fetch(server, tmp_path / "new", "good")
    assert paths == [tmp_path / "new" / "mnist" / name for name in server.files]
    assert whole(server, tmp_path / "new")
    fetch(server, tmp_path / "new", "good")  # what is there is not fetched again
    assert len(server.seen) == 2
    assert downloading.download("digits", tmp_path / "none") == []
    with pytest.raises(ValueError, match="task: expected one of"):
        downloading.download("imagenet", tmp_path)


@pytest.mark.parametrize("way", ["missing", "wrong", "longer", "cut"])
def test_the_next_mirror_is_tried(server, tmp_path, way):
    server.ways["bad"] = way
    fetch(server, tmp_path, "bad", "good")
    assert whole(server, tmp_path)
    assert [folder for folder, *_ in server.seen] == ["bad", "good"] * 2
    assert [asked for *_, asked in server.seen][1] == ("bytes=100000-" if way == "cut" else None)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("missing", "404"),
        ("wrong", "not the file with SHA-256"),
        ("longer", "expected 200000 bytes, got more"),
        ("cut", "IncompleteRead"),
    ],
)
def test_no_mirror_has_it(server, tmp_path, monkeypatch, way, words):
    taken = []
    monkeypatch.setattr(downloading.terminal, "progress_of_bytes", lambda *_: contextlib.nullcontext(taken.append))
    server.ways["bad"] = way
    with pytest.raises(DataError) as caught:
        fetch(server, tmp_path, "bad")
    assert sum(taken) <= 200_000
    assert words in str(caught.value)
    assert f"{server.url}/bad/one.gz" in str(caught.value)
    left = ["one.gz.part"] if way == "cut" else []
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == left


def test_a_mirror_that_does_not_answer_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "_TIMEOUT", (60.0, 0.1))
    server.ways["bad"] = "silent"
    with pytest.raises(DataError, match=r"bad/one\.gz: .*[Rr]ead timed out"):
        fetch(server, tmp_path, "bad")


def test_every_task_has_its_files_and_mirrors(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(downloading, "_from_any", lambda bases, target, _: asked.append((bases, target)))
    for name, kind in (("cifar", "cifar10"), ("noise-padded", "cifar10"), ("mnist", "mnist"), ("pmnist", "mnist")):
        asked.clear()
        paths = downloading.download(name, tmp_path)
        assert asked == [(downloading.MIRRORS[kind], path) for path in paths]
        assert paths == [tmp_path / kind / file for file in downloading.FILES[kind]]


def test_a_download_goes_on_where_it_broke_off(server, tmp_path):
    server.ways["bad"] = "cut"
    with pytest.raises(DataError):
        fetch(server, tmp_path, "bad")
    assert (tmp_path / "mnist" / "one.gz.part").read_bytes() == server.files["one.gz"][:100_000]
    fetch(server, tmp_path, "good")
    assert whole(server, tmp_path)
    assert [asked for *_, asked in server.seen] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("content", [bytes(1000), bytes(200_000), bytes(200_001)], ids=len)
def test_a_partial_file_that_is_another_one_is_given_up(server, tmp_path, content):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "one.gz.part").write_bytes(content)
    fetch(server, tmp_path, "good")
    assert whole(server, tmp_path)


@pytest.mark.parametrize("way", ["whole", "another range"])
def test_a_server_that_sends_all_of_it_where_a_rest_was_asked_for(server, tmp_path, way):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "one.gz.part").write_bytes(server.files["one.gz"][:1000])
    server.ways["old"] = way
    fetch(server, tmp_path, "old")
    assert whole(server, tmp_path)
    assert server.seen[0] == ("old", "one.gz", "bytes=1000-")
    assert len(server.seen) == 2


def test_a_damaged_file_is_replaced(server, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "one.gz").write_bytes(b"damaged")
    fetch(server, tmp_path, "good")
    assert whole(server, tmp_path)


def test_no_server_and_no_folder(server, tmp_path):
    with pytest.raises(DataError, match="no mirror gave it: http://127.0.0.1:1/one.gz: "):
        downloading.download("mnist", tmp_path, mirrors=["http://127.0.0.1:1"])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(server, tmp_path / "file", "good")


def test_what_is_stated_of_the_official_files():
    for kind, files in downloading.FILES.items():
        assert len(downloading.MIRRORS[kind]) >= 2
        assert all(url.startswith("https://") and url.endswith("/") for url in downloading.MIRRORS[kind])
        assert all(len(remote.sha256) == 64 for remote in files.values())
    assert set(downloading._FOLDERS) == set(tasks.TASKS)


# Real files


@needs_mnist
def test_stated_checksums_are_those_of_the_real_mnist():
    for name, remote in downloading.FILES["mnist"].items():
        found = [path for path in (Path(MNIST) / "mnist" / name, Path(MNIST) / name) if path.exists()]
        content = found[0].read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == remote


@needs_mnist
def test_swapped_splits_of_the_real_mnist_are_refused(tmp_path):
    parent = Path(MNIST) / "mnist" if (Path(MNIST) / "mnist").is_dir() else Path(MNIST)
    for name in (IMAGES, LABELS):
        shutil.copyfile(parent / name, tmp_path / name.replace("t10k", "train"))
    with pytest.raises(DataError, match="it holds what belongs in t10k-images-idx3-ubyte.gz: are two files swapped"):
        tasks.load("mnist", tmp_path)


@needs_mnist
def test_real_tasks_of_mnist():
    plain = tasks.load("mnist", Path(MNIST))
    assert (len(plain.train_labels), len(plain.test_labels), plain.T, plain.m) == (60000, 10000, 784, 1)
    x = tasks.sequences(plain, "test", range(100), np.float32)
    assert (x.shape, float(x.min()), float(x.max())) == ((784, 100, 1), 0.0, 1.0)


@needs_mnist
def test_real_cifar_is_what_it_is():
    try:
        images = data.load_cifar(MNIST, "test")
    except DataError as error:
        pytest.skip(f"ANTISYMRNN_DATA has no CIFAR-10: {error}")
    assert np.bincount(images.labels).tolist() == [1000] * 10
    pixels = images.images[::10].reshape(-1, 3) / 255
    np.testing.assert_allclose(pixels.mean(0), [0.4914, 0.4822, 0.4465], atol=0.01)
    np.testing.assert_allclose(pixels.std(0), [0.2470, 0.2435, 0.2616], atol=0.01)
    near = np.abs(np.diff(images.images[:500].astype(int), axis=2)).mean()  # neighbours are alike in a true image
    assert near < 15
