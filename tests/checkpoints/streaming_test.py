"""Arrays written row by row read as if Orbax had written them; lazy reading."""

import math
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from etils import epath

from ccl_jax.checkpoints import orbax_reader, streaming
from ccl_jax.checkpoints.streaming import StreamedArray, row_windows
from ccl_jax.params import sharding, trees

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((3, 4, 8)).astype(np.float32)
TREE = {
  "a": {"0": RNG.standard_normal((6, 4)).astype(ml_dtypes.bfloat16)},
  "zeros": np.zeros((4, 2), np.float32),
  "one": np.array(2.5, np.float32),
  "on device": jnp.arange(4.0),
}


def rows():
  return ((i, ROWS[i]) for i in reversed(range(3)))


def whole():
  yield None, ROWS[0]


LAZY = {
  "rows": StreamedArray((3, 4, 8), np.dtype(np.float32), rows, by_row=True),
  "whole": StreamedArray((4, 8), np.dtype(np.float32), whole),
}
EXPECTED = {**TREE, "rows": ROWS, "whole": ROWS[0]}


def shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("arrays") / "there"
  streaming.write_arrays(path, {**TREE, **LAZY})
  return path


def test_round_trip(folder):
  found = orbax_reader.read_tree(folder, shapes(EXPECTED))
  for path, x in trees.flatten(found).items():
    expected = trees.flatten(EXPECTED)[path]
    assert x.dtype == expected.dtype
    np.testing.assert_array_equal(x, expected)


def test_orbax_reads_it(folder):
  found = ocp.StandardCheckpointer().restore(folder, shapes(EXPECTED))
  jax.tree.map(np.testing.assert_array_equal, found, EXPECTED)


def test_a_full_disk_is_an_error_before_writing(tmp_path):
  huge = StreamedArray((10**9, 10**9), np.dtype(np.float32), rows)
  with pytest.raises(ValueError, match=r"4000000000\.0 GB; its disk has"):
    streaming.write_arrays(tmp_path / "there", {"huge": huge})
  assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
  "shape, by_row",
  [((40, 5120, 13824), True), ((256384, 4096), False), ((7,), False)],
)
def test_chunks(shape, by_row):
  chunk = streaming.chunk_shape(shape, 4, by_row)
  assert np.prod(chunk) * 4 <= 2**25
  assert np.prod(chunk) * 4 > 2**23 or chunk == shape
  assert chunk[0] == 1 or not by_row
  assert streaming.chunk_shape((0, 3), 4, by_row) == (1, 3)


@pytest.mark.parametrize("budget", [1, 300, 2**31])
def test_rows_are_read_without_the_rest(folder, tmp_path, monkeypatch, budget):
  """From chunks of one row, and from those of a mesh: parts of all rows."""
  monkeypatch.setattr(streaming, "WINDOW_BYTES", budget)
  monkeypatch.setattr(streaming, "READING_BYTES", budget)
  layout = sharding.Layout(sharding.make_mesh(jax.devices(), fsdp=4, data=2))
  value = RNG.standard_normal((5, 7, 8)).astype(ml_dtypes.bfloat16)
  spread = jax.device_put(value, layout.sharding(None, None, ("fsdp", "data")))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "there", {"a": {"b": spread}})
  for found, expected, chunk in (
    (streaming.open_arrays(tmp_path / "there")["a/b"], value, (5, 7, 1)),
    (streaming.open_arrays(folder, ["rows"])["rows"], ROWS, (1, 4, 8)),
  ):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.chunk_shape == chunk
    rows = list(found)
    assert len(rows) == len(expected)
    for row, values in zip(rows, expected, strict=True):
      np.testing.assert_array_equal(row, values)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ("shape", "chunk", "budget", "windows"),
  [
    ((7, 8), (7, 8), 24, [(0, 3), (3, 6), (6, 7)]),  # as many rows as fit
    ((7, 8), (7, 1), 24, [(0, 3), (3, 6), (6, 7)]),
    ((7, 8), (7, 8), 1000, [(0, 7)]),
    ((7, 8), (7, 8), 1, [(i, i + 1) for i in range(7)]),  # never less than one
    ((7, 8), (3, 8), 16, [(0, 2), (2, 3), (3, 5), (5, 6), (6, 7)]),
    ((2, 8), (1, 8), 1000, [(0, 1), (1, 2)]),  # rows of one chunk only
    ((5,), (4,), 3, [(0, 3), (3, 4), (4, 5)]),
    ((3, 0), (1, 1), 9, [(0, 1), (1, 2), (2, 3)]),
    ((0, 3), (1, 3), 9, []),
  ],
)
def test_windows_of_rows(shape, chunk, budget, windows):
  assert list(row_windows(shape, chunk, budget)) == windows


def test_windows_hold_every_row_once_and_no_chunk_in_part_without_need():
  rng = np.random.default_rng(0)
  for _ in range(50):
    shape, chunk = (tuple(rng.integers(1, 20, 2).tolist()) for _ in range(2))
    budget = int(rng.integers(1, 100))
    windows = list(row_windows(shape, chunk, budget))
    rows = [row for first, stop in windows for row in range(first, stop)]
    assert rows == list(range(shape[0]))
    fits = max(budget // shape[1], 1)
    reads = math.ceil(min(chunk[0], shape[0]) / fits)  # of the first chunk
    assert sum(first < chunk[0] for first, _ in windows) == reads
    for first, stop in windows:
      assert first // chunk[0] == (stop - 1) // chunk[0]
      assert stop - first <= fits


def test_one_window_is_in_memory_at_a_time(tmp_path, monkeypatch):
  """Also while the caller holds the last row that it got."""
  num, row_bytes = 12, 2**20
  monkeypatch.setattr(streaming, "WINDOW_BYTES", 4 * row_bytes)
  with ocp.StandardCheckpointer() as checkpointer:
    values = jnp.arange(num * row_bytes // 4.0).reshape(num, -1)
    checkpointer.save(tmp_path / "there", {"a": values})
  found = streaming.open_arrays(tmp_path / "there")["a"]
  tracemalloc.start()
  try:
    total = 0.0
    for row in found:
      total += float(row[0])
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert total == float(values[:, 0].sum())
  assert 4 * row_bytes <= peak < 6 * row_bytes


def test_every_array_can_be_opened(folder):
  found = streaming.open_arrays(folder)
  assert found.keys() == trees.flatten(EXPECTED).keys()
  for path, x in trees.flatten(EXPECTED).items():
    assert found[path].size == x.size
    np.testing.assert_array_equal(found[path], x)


def test_arrays_of_size_zero_are_left_out_and_made_anew(tmp_path):
  tree = {"a": np.zeros((3, 0), np.float32), "b": np.ones(2, np.float32)}
  streaming.write_arrays(tmp_path / "there", tree)
  assert streaming.open_arrays(tmp_path / "there").keys() == {"b"}
  found = orbax_reader.read_tree(tmp_path / "there", shapes(tree))
  assert found["a"].shape == (3, 0) and found["a"].dtype == np.float32
  np.testing.assert_array_equal(found["b"], tree["b"])


def test_what_cannot_be_opened(folder, tmp_path):
  with pytest.raises(ValueError, match="there' cannot be read"):
    streaming.open_arrays(folder, ["nothing"])
  with pytest.raises(ValueError, match="nothing' cannot be read"):
    streaming.open_arrays(tmp_path / "nothing", ["rows"])


def test_places_in_a_bucket():
  place = streaming.store_spec(epath.Path("gs://bucket/run/default"), "a/b")
  spec = tensorstore.Spec({"driver": "zarr", **place})
  assert spec.to_json()["kvstore"]["base"] == {
    "driver": "gcs", "bucket": "bucket", "path": "run/default/",
  }  # fmt: skip
