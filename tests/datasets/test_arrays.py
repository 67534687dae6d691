"""Sets of images in files: back as they were written, or refused in one line."""

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from processes import run_python
from properties import examples
from refusals import Bomb, names_in, refusal
from small_sets import assert_same, image_set

from onepix.datasets.arrays import load_arrays, save_arrays
from onepix.images import ImageSet

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(
    images=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)),
    names=st.lists(TEXT, min_size=1, max_size=5),
    provenance=TEXT,
    data=st.data(),
)
@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_saved_sets_come_back_whole(
    images: np.ndarray, names: list[str], provenance: str, data: st.DataObject, tmp_path: Path
) -> None:
    count = len(images)
    labels = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, len(names) - 1)))
    ids = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, 2**62), unique=True))
    saved = ImageSet(images, labels, ids, tuple(names), provenance)
    save_arrays(saved, tmp_path / "images")  # no suffix: the name stays as it is
    assert_same(load_arrays(tmp_path / "images"), saved)
    assert names_in(tmp_path) == ["images"]


def test_a_users_own_file_is_read_row_before_column(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    images = np.zeros((3, 2, 5, 4), np.uint8)
    images[2, 1, 4, 3] = 255
    np.savez_compressed(path, images=images, labels=np.array([0, 2, 2], np.uint16), extra=np.array([object()]))
    loaded = load_arrays(path)
    assert loaded.images.shape == (3, 2, 5, 4)
    assert loaded.images[2, 1, 4, 3] == 255
    assert loaded.labels.tolist() == [0, 2, 2]
    assert loaded.labels.dtype == np.int64
    assert loaded.ids.tolist() == [0, 1, 2]
    assert loaded.class_names == ("0", "1", "2")
    assert loaded.provenance == str(path)


def test_grey_images_without_a_channel_axis_get_one(tmp_path: Path) -> None:
    grey = np.arange(30, dtype=np.uint8).reshape(2, 3, 5)
    np.savez(tmp_path / "grey.npz", images=grey, labels=[0, 1])
    loaded = load_arrays(tmp_path / "grey.npz")
    assert loaded.images.shape == (2, 3, 5, 1)
    np.testing.assert_array_equal(loaded.images[..., 0], grey)


def test_images_in_column_order_become_contiguous(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    np.savez(tmp_path / "a.npz", images=np.asfortranarray(images), labels=[0])
    loaded = load_arrays(tmp_path / "a.npz").images
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, images)


def test_class_names_given_go_before_those_in_the_file(tmp_path: Path) -> None:
    save_arrays(image_set(), tmp_path / "a.npz")
    assert load_arrays(tmp_path / "a.npz").class_names == ("cat", "dog")
    assert load_arrays(tmp_path / "a.npz", ["x", "y"]).class_names == ("x", "y")


GOOD = {"images": np.zeros((2, 2, 3, 1), np.uint8), "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, ["'labels'", "'images'"]),
        ({"images": None, "rows": np.zeros((2, 6), np.uint8)}, ["'images'", "found", "rows"]),
        ({"images": np.zeros((2, 2, 3, 1))}, ["uint8", "float64"]),
        ({"images": np.zeros((2, 6), np.uint8)}, ["(image, y, x, channel)", "(2, 6)"]),
        ({"images": np.zeros((0, 2, 3, 1), np.uint8), "labels": np.zeros(0, int)}, ["empty"]),
        ({"images": np.array(b"x")}, ["uint8"]),
        ({"labels": np.array([0.0, 1.0])}, ["labels", "integers", "float64"]),
        ({"labels": np.array([0, 1, 1])}, ["labels", "(2,)", "(3,)"]),
        ({"labels": np.array([0, -1])}, ["labels", "-1"]),
        ({"labels": np.array([0, 100_000])}, ["labels", "below 100000", "got 100000"]),
        ({"labels": np.array([0, 2]), "class_names": np.array(["a", "b"])}, ["labels", "0–1", "got 2"]),
        ({"ids": np.array([5, 5])}, ["ids", "unique"]),
        ({"ids": np.array(["a", "b"])}, ["ids", "integers"]),
        ({"class_names": np.array([1, 2])}, ["class_names", "text"]),
        ({"class_names": np.array("ab")}, ["class_names", "text", "()"]),
        ({"class_names": np.array(["a", "b"], object)}, ["'class_names'", "allow_pickle=False"]),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(
    changes: dict[str, np.ndarray | None], said: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **{name: array for name, array in {**GOOD, **changes}.items() if array is not None})
    message = refusal(load_arrays, path)
    for part in [str(path), *said]:
        assert part in message


def test_a_label_beyond_the_given_names_is_refused(tmp_path: Path) -> None:
    save_arrays(image_set(), tmp_path / "a.npz")
    assert "got 1" in refusal(load_arrays, tmp_path / "a.npz", ["only one"])


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, Path.touch], ids=["absent", "a folder", "empty"])
def test_what_is_no_file_of_arrays_is_refused_by_name(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in refusal(load_arrays, tmp_path / "a.npz")


def test_a_bare_array_and_a_pickle_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", GOOD["images"])
    assert ".npz" in refusal(load_arrays, tmp_path / "bare.npy")
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    assert ".npz" in refusal(load_arrays, tmp_path / "a.npz")
    assert not (tmp_path / "crater").exists()


@given(data=st.data())
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_short_anywhere_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "cut.npz"
    save_arrays(image_set(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert str(path) in refusal(load_arrays, path)


def test_a_changed_pixel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_arrays(image_set(), path)
    pixels = image_set().images.tobytes()
    contents = path.read_bytes()
    assert contents.count(pixels) == 1
    path.write_bytes(contents.replace(pixels, pixels[:-1] + b"\xff"))
    assert "'images'" in refusal(load_arrays, path)


# --- A write that is broken off

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from onepix.datasets.bundled import load_bundled
from onepix.datasets.arrays import save_arrays

def savez(file, **arrays):
    file.write(bytes(1000))
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

np.savez = savez
save_arrays(load_bundled(), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("before", [None, image_set()], ids=["new", "replaced"])
def test_a_kill_in_the_middle_leaves_the_name_as_it_was(before: ImageSet | None, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    if before:
        save_arrays(before, path)
    assert run_python(KILLED, str(path)).returncode == -signal.SIGKILL
    visible = [name for name in names_in(tmp_path) if not name.startswith(".")]
    assert visible == (["a.npz"] if before else [])
    if before:
        assert_same(load_arrays(path), before)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    save_arrays(image_set(), path)

    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        save_arrays(image_set(provenance="another"), path)
    assert names_in(tmp_path) == ["a.npz"]
    assert_same(load_arrays(path), image_set())
