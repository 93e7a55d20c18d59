"""The joint model's table: both ways bit for bit, and every name of PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.convert import ccl, matching, wan
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.convert.torch_files import from_torch
from ccl_jax.models import functional
from ccl_jax.params import trees
from configs.ccl import get_config
from tests.convert.joints import MODELS, describe, draw
from tests.convert.loading import from_dict, load

torch = pytest.importorskip("torch")
KINDS = (
  "cca", "image", "gated", "video", "audio", "in context, self2d", "adapted"
)  # fmt: skip


def same(a, b):
  assert a.keys() == b.keys()
  for name, x in a.items():
    assert x.dtype == b[name].dtype
    np.testing.assert_array_equal(x, b[name], name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_from_jax_and_back_bit_for_bit(kind, dtype):
  table, (_, params) = ccl.table(MODELS[kind]), draw(kind, dtype)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params)
  there = dict(iter_state_dict(params, table))
  again = load(from_dict(there), table, shapes)
  same(trees.flatten(again), trees.flatten(params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_from_torch_and_back_bit_for_bit(kind, dtype):
  from ccl_jax.convert.torch_model import CCL

  model = MODELS[kind]
  theirs = CCL.of(model).to(getattr(torch, dtype)).state_dict()
  generator = torch.Generator().manual_seed(0)
  for x in theirs.values():
    x.normal_(generator=generator)
  table, shapes = ccl.table(model), describe(kind, "float32")[1]
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)), shapes
  )
  tensors = from_torch(theirs)
  back = dict(iter_state_dict(load(tensors, table, shapes), table))
  same(back, {name: np.asarray(tensors.read(name)) for name in theirs})


@pytest.mark.parametrize(
  "argument, video",
  [("size=14b", wan.SIZES["14b-i2v"]["video"]), ("size=1.3b,fusion=gated", {})],
)
def test_every_name_and_shape_of_the_full_sizes(argument, video):
  from ccl_jax.convert.torch_model import CCL

  model = get_config(argument).model.to_dict()
  model["video"] |= video
  with torch.device("meta"):
    theirs = from_torch(CCL(model).state_dict()).shapes
  ours = trees.flatten(functional.describe(model)[1])
  matching.match(ccl.table(model), theirs, ours)
  assert sum(x.size for x in theirs.values()) == trees.count(ours)
