"""Arrays in the store are read back bit for bit, whole or in parts; incomplete arrays do not exist."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.dataset.store import Store, content_address
from medvit.errors import DataError, OutputError

DTYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8", ">i2")

ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from medvit.errors import OutputError
from medvit.dataset.store import Store

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    Store(folder).put(np.random.default_rng(0).integers(0, 60000, (64, 64, 64), dtype=np.uint16))
except OutputError as error:
    print(error)
"""


def noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 200 - 50).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (2, 9), (1,), (0, 4)])
def test_an_array_comes_back_bit_for_bit_in_its_own_type(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    store, voxels = Store(tmp_path), noise(shape, dtype)
    back = store.get(store.put(voxels))
    assert back.dtype == voxels.dtype
    assert back.shape == voxels.shape
    assert back.tobytes() == voxels.tobytes()


def test_not_a_number_survives(tmp_path: Path) -> None:
    store = Store(tmp_path)
    back = store.get(store.put(np.array([np.nan, np.inf, -0.0], dtype=np.float32)))
    assert np.isnan(back[0])
    assert np.isinf(back[1])
    assert np.signbit(back[2])


@settings(max_examples=40, deadline=None)
@given(bounds=st.tuples(*[st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in (3, 70, 60, 90)]))
def test_a_part_equals_the_part_of_the_whole(tmp_path_factory: pytest.TempPathFactory, bounds: list) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "parts")
    voxels = np.arange(3 * 70 * 60 * 90, dtype=np.int32).reshape(3, 70, 60, 90)  # larger than one chunk
    region = tuple(slice(low, high) for low, high in bounds)
    assert np.array_equal(store.get(store.put(voxels), region), voxels[region])


def test_a_view_is_stored_as_it_looks(tmp_path: Path) -> None:
    store, voxels = Store(tmp_path), noise((4, 5, 6), "i2")
    turned = voxels.T[::-1]
    assert np.array_equal(store.get(store.put(turned)), turned)


def test_the_same_array_is_stored_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.put(noise((3, 4), "i2")) == store.put(noise((3, 4), "i2").copy(order="F"))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_type_and_shape_are_part_of_the_address() -> None:
    zeros = np.zeros(12, dtype=np.int16)
    addresses = {content_address(a) for a in (zeros, zeros.reshape(3, 4), zeros.view(np.uint16), zeros.view(np.int32))}
    assert len(addresses) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads are numbered otherwise")
def test_an_array_is_packed_in_the_calling_thread(tmp_path: Path) -> None:
    store, arrays = Store(tmp_path), [np.full((256, 256, 40), n, dtype=np.int16) for n in range(40)]  # two chunks each
    before = number_of_the_next_thread()
    for array in arrays:
        store.put(array)
    num_started = number_of_the_next_thread() - before
    assert num_started < 40  # other processes may start some meanwhile


def number_of_the_next_thread() -> int:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    return thread.native_id


def test_an_unknown_address_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pixels under 0123456789ab"):
        Store(tmp_path).get("0123456789abcdef")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    address = store.put(noise((64, 64), "f4"))
    store.path(address).write_bytes(store.path(address).read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        store.get(address)


@pytest.mark.parametrize("limit", [0, 100, 100_000, 520_000])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    program = [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path), str(limit)]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert "cannot store 0.5 MiB of pixels" in shown
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_another_store_holds_is_taken_over_and_outlives_it(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    voxels = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    address = other.put(voxels)
    one.link(other, address)
    one.link(other, address)
    other.path(address).unlink()
    np.testing.assert_array_equal(one.get(address), voxels)
    assert len(list((tmp_path / "one").rglob("*.b2nd"))) == 1


def test_taking_over_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot copy or link stored pixels"):
        Store(tmp_path / "one").link(Store(tmp_path / "other"), "ab" * 32)
    assert not list((tmp_path / "one").rglob("*.b2nd"))
