"""What is written piece by piece reads as if Orbax had written it."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from etils import epath

from ccl_jax import sharding, trees
from ccl_jax.checkpoints import streaming
from ccl_jax.checkpoints.streaming import StreamedArray

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
  streaming.write(path, {**TREE, **LAZY})
  return path


def test_round_trip(folder):
  found = streaming.read(folder, shapes(EXPECTED))
  for path, x in trees.flatten(found).items():
    expected = trees.flatten(EXPECTED)[path]
    assert x.dtype == expected.dtype
    np.testing.assert_array_equal(x, expected)


def test_orbax_reads_it(folder):
  found = ocp.StandardCheckpointer().restore(folder, shapes(EXPECTED))
  jax.tree.map(np.testing.assert_array_equal, found, EXPECTED)


def test_we_read_what_orbax_writes(tmp_path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "there", TREE)
  found = streaming.read(tmp_path / "there", shapes(TREE))
  jax.tree.map(np.testing.assert_array_equal, found, TREE)


def test_cast_and_shardings(folder):
  layout = sharding.Layout(sharding.make_mesh(jax.devices(), fsdp=4, data=2))
  wanted = shapes(EXPECTED)
  place = layout.sharding(None, "fsdp", "data")
  wanted["rows"] = jax.ShapeDtypeStruct((3, 4, 8), jnp.bfloat16, sharding=place)
  found = streaming.read(folder, wanted)["rows"]
  assert found.sharding == place
  np.testing.assert_array_equal(found, ROWS.astype(ml_dtypes.bfloat16))


def test_another_model(folder):
  wanted = shapes(EXPECTED)
  wanted["one"] = jax.ShapeDtypeStruct((2,), np.float32)
  wanted["more"] = wanted.pop("zeros")
  with pytest.raises(ValueError, match="another model") as found:
    streaming.read(folder, wanted)
  for part in ("one: (), not (2,)", "more: None", "zeros: (4, 2), not None"):
    assert part in str(found.value)


def test_damaged_folders(tmp_path):
  with pytest.raises(ValueError, match="cannot be read"):
    streaming.read(tmp_path / "nothing", shapes(TREE))
  streaming.write(tmp_path / "there", TREE)
  (tmp_path / "there" / "_METADATA").write_text("{")
  with pytest.raises(ValueError, match="cannot be read"):
    streaming.saved(tmp_path / "there")


def test_a_full_disk_is_told_before(tmp_path):
  huge = StreamedArray((10**9, 10**9), np.dtype(np.float32), rows)
  with pytest.raises(ValueError, match=r"4000000000\.0 GB; its disk has"):
    streaming.write(tmp_path / "there", {"huge": huge})
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
  """Of what is written row by row, and of what a mesh wrote: parts of all."""
  monkeypatch.setattr(streaming, "_ROWS_BYTES", budget)
  monkeypatch.setattr(streaming, "_READING_BYTES", budget)
  layout = sharding.Layout(sharding.make_mesh(jax.devices(), fsdp=4, data=2))
  value = RNG.standard_normal((5, 7, 8)).astype(ml_dtypes.bfloat16)
  spread = jax.device_put(value, layout.sharding(None, None, ("fsdp", "data")))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "there", {"a": {"b": spread}})
  for found, expected in (
    (streaming.stored(tmp_path / "there")["a/b"], value),
    (streaming.stored(folder, ["rows"])["rows"], ROWS),
  ):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    for i in [*range(len(expected)), 1, 0]:
      np.testing.assert_array_equal(found[i], expected[i])
    np.testing.assert_array_equal(found, expected)
  assert streaming.stored(tmp_path / "there")["a/b"]._chunk == (5, 7, 1)


def test_every_array_can_be_opened(folder):
  found = streaming.stored(folder)
  assert found.keys() == trees.flatten(EXPECTED).keys()
  for path, x in trees.flatten(EXPECTED).items():
    assert found[path].size == x.size
    np.testing.assert_array_equal(found[path], x)


def test_a_chunk_is_read_once(tmp_path, monkeypatch):
  """As rows are asked for in order, while they fit; then they are let go."""
  read, reads = streaming.LazyArray._read, []

  def count(self, first, stop):
    reads.append((first, stop))
    return read(self, first, stop)

  monkeypatch.setattr(streaming.LazyArray, "_read", count)
  monkeypatch.setattr(streaming, "_ROWS_BYTES", 3 * 8 * 4)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "there", {"a": jnp.ones((7, 8))})
  found = streaming.stored(tmp_path / "there")["a"]
  assert sum(float(found[i].sum()) for i in range(7)) == 56
  assert reads == [(0, 3), (3, 6), (6, 7)]
  assert not found._rows.size


def test_what_cannot_be_opened(folder, tmp_path):
  with pytest.raises(ValueError, match="there' cannot be read"):
    streaming.stored(folder, ["nothing"])
  with pytest.raises(ValueError, match="nothing' cannot be read"):
    streaming.stored(tmp_path / "nothing", ["rows"])


def test_places_in_a_bucket():
  place = streaming._place(epath.Path("gs://bucket/run/default"), "a/b")
  spec = tensorstore.Spec({"driver": "zarr", **place})
  assert spec.to_json()["kvstore"]["base"] == {
    "driver": "gcs", "bucket": "bucket", "path": "run/default/",
  }  # fmt: skip
