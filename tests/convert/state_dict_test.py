"""Files to parameters and back: bit for bit, and straight to the devices."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ccl_jax.checkpoints import orbax_reader, streaming
from ccl_jax.convert import layouts
from ccl_jax.convert.rules import Rule
from ccl_jax.convert.state_dict import iter_state_dict, streamed_params
from ccl_jax.convert.torch_files import open_state_dict
from ccl_jax.params import sharding, trees
from tests.convert.loading import from_dict, load

TABLE = (
  Rule(
    "blocks.{layer}.mlp.{i}.weight", "s/blocks/{i}/kernel", layouts.LINEAR
  ),
  Rule("blocks.{layer}.gate", "s/blocks/gate"),
  Rule("conv.weight", "s/conv/kernel", layouts.CONV3D),
  Rule(
    "qkv",
    ("s/q", "s/k", "s/v"),
    layouts.QKV.then(layouts.each(layouts.LINEAR)),
  ),
  Rule(("left", "right"), "s/both", layouts.WeightLayout(
    "join",
    lambda *x: (np.concatenate(x),),
    lambda x: tuple(np.split(x, 2)),
  )),
  Rule("scale", "s/scale"),
)  # fmt: skip
SHAPES = {
  **{f"blocks.{n}.mlp.{i}.weight": (8, 4) for n in range(3) for i in range(2)},
  **{f"blocks.{n}.gate": () for n in range(3)},
  "conv.weight": (4, 8, 3, 2, 2),
  "qkv": (24, 4),
  "left": (4, 2),
  "right": (4, 2),
  "scale": (),
}
OURS = {
  **{f"s/blocks/{i}/kernel": (3, 4, 8) for i in range(2)},
  "s/blocks/gate": (3,),
  "s/conv/kernel": (3, 2, 2, 8, 4),
  **{f"s/{name}": (4, 8) for name in "qkv"},
  "s/both": (8, 2),
  "s/scale": (),
}


def draw(dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    name: np.asarray(rng.standard_normal(shape)).astype(dtype)
    for name, shape in SHAPES.items()
  }


def shapes(dtype, specs=lambda path, shape: None):
  return trees.unflatten(
    {
      path: jax.ShapeDtypeStruct(shape, dtype, sharding=specs(path, shape))
      for path, shape in OURS.items()
    }
  )


@pytest.mark.parametrize(
  "dtype",
  [np.float32, ml_dtypes.bfloat16, np.float16],
  ids=lambda d: d.__name__,
)
def test_there_and_back_bit_for_bit(dtype):
  theirs = draw(dtype)
  ours = load(from_dict(theirs), TABLE, shapes(dtype))
  again = dict(iter_state_dict(ours, TABLE))
  assert again.keys() == theirs.keys()
  for name, array in theirs.items():
    assert again[name].dtype == array.dtype
    assert again[name].shape == array.shape
    np.testing.assert_array_equal(again[name], array)
  back = load(from_dict(again), TABLE, shapes(dtype))
  jax.tree.map(np.testing.assert_array_equal, ours, back)


def test_values_are_where_they_belong():
  theirs = draw()
  ours = trees.flatten(load(from_dict(theirs), TABLE, shapes(np.float32)))
  for n in range(3):
    weight = theirs[f"blocks.{n}.mlp.1.weight"]
    np.testing.assert_array_equal(ours["s/blocks/1/kernel"][n], weight.T)
    assert ours["s/blocks/gate"][n] == theirs[f"blocks.{n}.gate"]
  np.testing.assert_array_equal(ours["s/k"], theirs["qkv"][8:16].T)
  np.testing.assert_array_equal(ours["s/both"][4:], theirs["right"])


def test_cast():
  theirs = draw()
  ours = load(from_dict(theirs), TABLE, shapes(jnp.bfloat16))
  assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
  expected = theirs["qkv"][:8].T.astype(ml_dtypes.bfloat16)
  np.testing.assert_array_equal(ours["s"]["q"], expected)


def test_onto_a_mesh(tmp_path):
  """Stacked, plain, split and entire parameters; from a file to devices."""
  mesh = sharding.make_mesh(jax.devices(), fsdp=4, data=2)
  layout = sharding.Layout(mesh)

  def specs(path, shape):
    if path == "s/blocks/gate" or len(shape) < 2:
      return layout.sharding()
    return layout.sharding(*[None] * (len(shape) - 2), ("fsdp"), ("data"))

  theirs = draw()
  save_file(theirs, tmp_path / "x.safetensors")
  state_dict = open_state_dict(tmp_path / "x.safetensors")
  wanted = shapes(np.float32, specs)
  made = streamed_params(state_dict, TABLE, wanted)
  streaming.write_arrays(tmp_path / "there", made)
  ours = orbax_reader.read_tree(tmp_path / "there", wanted)
  one = load(from_dict(theirs), TABLE, shapes(np.float32))
  for path, x in trees.flatten(ours).items():
    assert x.sharding == trees.flatten(wanted)[path].sharding, path
    np.testing.assert_array_equal(x, trees.flatten(one)[path])
  kernel = ours["s"]["blocks"]["0"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 1, 4)
  again = dict(iter_state_dict(ours, TABLE))
  for name, array in theirs.items():
    np.testing.assert_array_equal(again[name], array)


def test_one_tensor_is_read_at_a_time():
  theirs, read = from_dict(draw()), []

  def one(name):
    read.append(name)
    return theirs.read(name)

  state_dict = dataclasses.replace(theirs, read=one)
  made = streamed_params(state_dict, TABLE, shapes(np.float32))
  assert not read
  leaf = trees.flatten(made)["s/blocks/0/kernel"]
  for n, (row, _) in enumerate(leaf.parts()):
    assert row == n and len(read) == n + 1


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_lazy_keeps_the_dtype_of_the_file(tmp_path, dtype):
  theirs = from_dict(draw(dtype))
  made = streamed_params(theirs, TABLE, shapes(np.float32))
  assert {x.dtype for x in trees.flatten(made).values()} == {np.dtype(dtype)}
  streaming.write_arrays(tmp_path / "there", made)
  found = orbax_reader.read_tree(tmp_path / "there", shapes(dtype))
  direct = load(theirs, TABLE, shapes(dtype))
  jax.tree.map(np.testing.assert_array_equal, found, direct)


def test_what_does_not_fit_names_the_file(tmp_path):
  theirs = draw()
  theirs["scales"] = theirs.pop("scale")
  save_file(theirs, tmp_path / "x.safetensors")
  state_dict = open_state_dict(tmp_path / "x.safetensors")
  with pytest.raises(ValueError, match=r"x\.safetensors.*\n.*only in the file"):
    streamed_params(state_dict, TABLE, shapes(np.float32))
