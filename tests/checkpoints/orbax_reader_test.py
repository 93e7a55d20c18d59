"""Arrays of a folder that Orbax wrote: onto any devices, or an error."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ccl_jax.checkpoints import orbax_reader
from ccl_jax.params import sharding

RNG = np.random.default_rng(0)
TREE = {
  "a": {"0": RNG.standard_normal((6, 4)).astype(ml_dtypes.bfloat16)},
  "zeros": np.zeros((4, 2), np.float32),
  "one": np.array(2.5, np.float32),
  "rows": RNG.standard_normal((3, 4, 8)).astype(np.float32),
}


def shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("arrays") / "there"
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, TREE)
  return path


def test_we_read_what_orbax_writes(folder):
  found = orbax_reader.read_tree(folder, shapes(TREE))
  jax.tree.map(np.testing.assert_array_equal, found, TREE)
  metadata = orbax_reader.read_metadata(folder)
  assert {p: tuple(x.shape) for p, x in metadata.items()} == {
    "a/0": (6, 4), "one": (), "rows": (3, 4, 8), "zeros": (4, 2),
  }  # fmt: skip
  assert str(metadata["a/0"].dtype) == "bfloat16"


def test_some_arrays_are_read_cast_and_sharded(folder):
  layout = sharding.Layout(sharding.make_mesh(jax.devices(), fsdp=4, data=2))
  spec = layout.sharding(None, "fsdp", "data")
  wanted = jax.ShapeDtypeStruct((3, 4, 8), jnp.bfloat16, sharding=spec)
  found = orbax_reader.read_arrays(folder, {"rows": wanted})
  assert found.keys() == {"rows"} and found["rows"].sharding == spec
  expected = TREE["rows"].astype(ml_dtypes.bfloat16)
  np.testing.assert_array_equal(found["rows"], expected)


def test_another_model(folder):
  wanted = shapes(TREE)
  wanted["one"] = jax.ShapeDtypeStruct((2,), np.float32)
  wanted["more"] = wanted.pop("zeros")
  with pytest.raises(ValueError, match="another model") as found:
    orbax_reader.read_tree(folder, wanted)
  assert not isinstance(found.value, orbax_reader.BrokenError)
  assert str(found.value).splitlines()[1:] == [
    "  only saved: zeros (4, 2)",
    "  only expected: more (4, 2)",
    "  one: saved (), expected (2,)",
  ]


def test_damaged_folders(tmp_path):
  with pytest.raises(orbax_reader.BrokenError, match="nothing' cannot be read"):
    orbax_reader.read_tree(tmp_path / "nothing", shapes(TREE))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "there", TREE)
  (tmp_path / "there" / "_METADATA").write_text("{")
  with pytest.raises(orbax_reader.BrokenError, match="there' cannot be read"):
    orbax_reader.read_metadata(tmp_path / "there")
