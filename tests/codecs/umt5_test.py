"""Buckets, lengths, precision, a mesh; for values see tests/parity."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from ccl_jax.codecs import runner, umt5
from ccl_jax.params import batch_rows, nnx_utils, trees
from ccl_jax.params.sharding import make_mesh
from tests.codecs.draw import draw

CONFIG = umt5.UMT5Config(
  vocab=50, width=16, ffn=24, heads=4, head_size=4, layers=2,
  dtype="float32", param_dtype="float32",
)  # fmt: skip
IDS = np.random.default_rng(0).integers(2, 50, (4, 12)).astype(np.int32)
LENGTHS = np.array([12, 5, 1, 8], np.int32)
INPUTS = IDS, LENGTHS


def random_params():
  return draw(nnx_utils.param_shapes(umt5.UMT5, CONFIG))


@pytest.fixture(scope="module")
def vectors():
  return np.asarray(umt5.encode(random_params(), *INPUTS, config=CONFIG))


def test_buckets():
  """Exact to 8 on either side, then wider, the last from 128 on."""
  table = umt5.position_buckets(200, 32, 128)
  before, after = table[-1, ::-1], table[0]  # by distance
  assert before[:8].tolist() == list(range(8))
  assert before[[8, 15, 16, 32, 64, 91, 127, 199]].tolist() == [
    8, 9, 10, 12, 14, 15, 15, 15,
  ]  # fmt: skip
  np.testing.assert_array_equal(after[1:], before[1:] + 16)
  np.testing.assert_array_equal(table[1:, 1:], table[:-1, :-1])


def test_padding_changes_nothing(vectors):
  for row, length in enumerate(LENGTHS):
    assert not vectors[row, length:].any()
    assert np.abs(vectors[row, :length]).min() > 0
  other = np.where(np.arange(12) < LENGTHS[:, None], IDS, 7).astype(np.int32)
  again = umt5.encode(random_params(), other, LENGTHS, config=CONFIG)
  np.testing.assert_array_equal(again, vectors)
  alone = umt5.encode(
    random_params(), IDS[1:2, :5], LENGTHS[1:2], config=CONFIG
  )
  np.testing.assert_allclose(alone[0], vectors[1, :5], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close(vectors):
  config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
  shapes = nnx_utils.param_shapes(umt5.UMT5, config)
  params = jax.tree.map(lambda p, x: p.astype(x.dtype), random_params(), shapes)
  ours = umt5.encode(params, *INPUTS, config=config)
  assert ours.dtype == np.float32
  error = np.linalg.norm(ours - vectors) / np.linalg.norm(vectors)
  assert error < 0.05


def test_a_mesh_gives_the_same(vectors):
  mesh = make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  layout = runner.make_layout(mesh, umt5.UMT5_RULES)
  shapes = nnx_utils.param_shapes(umt5.UMT5, CONFIG, layout)
  params = jax.tree.map(
    lambda p, x: jax.device_put(p, x.sharding), random_params(), shapes
  )
  up = trees.flatten(params)["encoder/blocks/up/kernel"]
  assert up.addressable_shards[0].data.shape == (2, 8, 12)
  ids, lengths = (batch_rows.put_rows(layout, 4, range(4), x) for x in INPUTS)
  program = umt5.encode.lower(
    params, ids, lengths, config=CONFIG, layout=layout
  ).compile()
  ours = program(params, ids, lengths)
  np.testing.assert_allclose(ours, vectors, rtol=1e-4, atol=1e-5)
  gathered = re.findall(r"= (\S+) all-gather\(", program.as_text())
  assert gathered
  # The largest array is not gathered, only the rows that are read.
  assert not [shape for shape in gathered if "[50," in shape]


def test_full_size_is_split():
  mesh = make_mesh(jax.devices(), fsdp=4, tensor=2)
  layout = runner.make_layout(mesh, umt5.UMT5_RULES)
  shapes = nnx_utils.param_shapes(umt5.UMT5, umt5.UMT5Config(), layout)
  leaves = trees.flatten(shapes).values()
  whole = sum(x.size for x in leaves if x.sharding.is_fully_replicated)
  assert whole < 1e-4 * sum(x.size for x in leaves)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [(dict(heads=0), "positive"), (dict(buckets=6), "multiple of 4")],
)
def test_settings_are_checked(wrong, message):
  with pytest.raises(ValueError, match=message):
    umt5.UMT5Config(**wrong)
