"""Every way a data file can be wrong has its own sentence; real files and bundled digits are what they should be."""

import gzip
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from antisymrnn_validation.experiments import tasks
from antisymrnn_validation.experiments.tasks import DataError

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
        tasks.load_mnist(folder, split)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_small_files_come_back_whole(folder, images, labels):
    loaded = tasks.load_mnist(folder)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert (loaded.images.dtype, loaded.labels.dtype, loaded.scale) == (np.uint8, np.uint8, 255.0)
    assert loaded.name == "MNIST"


def test_the_parent_of_a_folder_mnist_will_do(folder, images):
    (folder / "mnist").mkdir()
    for name in (IMAGES, LABELS):
        (folder / name).rename(folder / "mnist" / name)
    np.testing.assert_array_equal(tasks.load_mnist(str(folder)).images, images)


def test_a_file_of_several_gzip_members_is_read_whole(folder, images):
    data = idx(images)
    (folder / IMAGES).write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:]))
    np.testing.assert_array_equal(tasks.load_mnist(folder).images, images)


def test_missing_directory(tmp_path):
    refused(tmp_path / "nowhere", "nowhere: expected a directory with the MNIST files, got nothing")


def test_a_name_longer_than_the_file_system_takes(tmp_path):
    refused(tmp_path / ("a" * 5000), "expected a directory", "got nothing")


def test_file_for_a_directory(folder):
    refused(folder / IMAGES, "expected a directory with the MNIST files, got a file")


def test_missing_files_are_listed(folder):
    message = refused(folder, "missing train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz", split="train")
    assert str(folder) in message
    (folder / LABELS).unlink()
    assert f"missing {LABELS}" in refused(folder, str(folder))
    assert f"missing {IMAGES}" not in refused(folder)


def test_unpacked_file_beside_a_missing_one_is_recognised(folder, labels):
    (folder / LABELS).unlink()
    (folder / LABELS[:-3]).write_bytes(idx(labels))
    refused(folder, f"missing {LABELS}", "t10k-labels-idx1-ubyte must stay compressed")


def test_unknown_split(folder):
    with pytest.raises(ValueError, match="split: expected train or test, got 'valid'"):
        tasks.load_mnist(folder, "valid")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got an empty file"),
        (b"<!DOCTYPE html>", "expected a gzip-compressed IDX file, as downloaded, got a file that starts with b'<!DO'"),
        (b"\0\0\x08\x01\0\0\0\x01\x05", "got an IDX file that is not compressed"),
        (b"\x1f", "got a file that starts with b'\\x1f'"),
        (b"\x1f\x8b", "cut off"),
        (b"\x1f\x8b\x07\0\0\0\0\0\0\0\0\0", "damaged"),
        (gzip.compress(b""), "expected a magic number of 4 bytes, got 0 bytes"),
        (gzip.compress(b"\0\0\x08"), "expected a magic number of 4 bytes, got 3 bytes"),
        (gzip.compress(b"\x89PNG....."), "got magic 0x89504e47"),
        (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0"), "got magic 0x00000d01"),
        (gzip.compress(b"\0\0\x08\x02" + bytes(8)), "got magic 0x00000802"),
        (gzip.compress(b"\0\0\x08\x00"), "got magic 0x00000800"),
        (gzip.compress(b"\0\0\x08\x03\0\0\0\x07\0\0"), "expected 3 sizes in the IDX header, got 6 bytes"),
        (gzip.compress(b"\0\0\x08\x01" + bytes(4)), "got a header that promises 0 = 0"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8), "got a header that promises 0 x 4294967295"),
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
                np.testing.assert_array_equal(tasks.load_mnist(folder).labels, labels)
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
        tasks.read_idx(tmp_path / "none.gz")


def test_file_that_the_system_cannot_read(folder, monkeypatch):
    def failing_open(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", failing_open)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        tasks.read_idx(folder / LABELS)


def test_pixel_sequences_are_scanlines(folder, images):
    loaded = tasks.load_mnist(folder)
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
        tasks.pixel_sequences(tasks.load_mnist(folder), [0, index])


def test_digits():
    digits = tasks.load_digits()
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
    mnist = tasks.load_mnist(MNIST, split)
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
