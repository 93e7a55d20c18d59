"""A small training state on a mesh, as `training.step` makes it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def mesh(count):
  """`count` of the virtual devices."""
  devices = np.array(jax.devices()[:count])
  return jax.sharding.Mesh(devices, ("data",), axis_types=(AxisType.Auto,))


def sharding(count, shape):
  """A sharding of the first axis that divides, else a copy on every device."""
  split = [None] * len(shape)
  for axis, size in enumerate(shape):
    if size % count == 0:
      split[axis] = "data"
      break
  return NamedSharding(mesh(count), PartitionSpec(*split))


def make(count=1, seed=0, width=8, skip=()):
  """A state whose every value follows from the seed."""
  rng = np.random.default_rng(seed)

  def array(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  def params():
    tree = {
      "video": {"in": array(width, 16), "layers": {"mlp": array(2, width)}},
      "audio": {"in": array(width, 24)},
      "fusion": {"gate": array(16).astype(jnp.bfloat16)},
    }
    return {k: v for k, v in tree.items() if k not in skip}

  trainable = params()
  chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  optimizer = jax.tree.map(
    lambda x: array(*x.shape).astype(x.dtype), chain.init(trainable)
  )
  state = {
    "step": jnp.asarray(seed, jnp.int32),
    "trainable": trainable,
    "frozen": {},
    "ema": params(),
    "optimizer": optimizer,
    "skipped": jnp.zeros((), jnp.int32),
  }
  return jax.tree.map(
    lambda x: jax.device_put(x, sharding(count, x.shape)), state
  )


def shapes(state, count=1):
  """ShapeDtypeStructs of the state, on another mesh."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding(count, x.shape)
    ),
    state,
  )


def assert_equal(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
