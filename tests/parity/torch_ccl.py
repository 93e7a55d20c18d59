"""The same small CCL in JAX and in PyTorch, and inputs for both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.array_types import STREAMS
from ccl_jax.convert import ccl
from ccl_jax.convert.state_dict import iter_state_dict
from ccl_jax.diffusion import tasks
from ccl_jax.models import functional
from tests.convert.joints import MODELS, draw

torch = pytest.importorskip("torch")
torch_model = pytest.importorskip("ccl_jax.convert.torch_model")
LIMIT = 1e-4
# bfloat16: each is as far from float32 as the other, and so from each other.
BOUND = 3e-2
B, F, H, W, L = 9, 3, 4, 6, 5


@functools.cache
def ours(kind, dtype="float32"):
  """(parameters, compiled velocity of them and of `inputs`)."""
  graph, params = draw(kind, compute=dtype)
  return params, jax.jit(functools.partial(functional.velocity, graph))


@functools.cache
def arrays(kind):
  """The state dict of the same model, as numpy arrays."""
  return dict(iter_state_dict(draw(kind)[1], ccl.table(MODELS[kind])))


@functools.cache
def theirs(kind):
  model = torch_model.CCL.of(MODELS[kind])
  tensors = {name: torch.tensor(x) for name, x in arrays(kind).items()}
  model.load_state_dict(tensors, strict=True)
  return model.requires_grad_(False)


def route(*names, exchanges=None):
  """Of training tasks."""
  index = jnp.array([tasks.TASK_NAMES.index(name) for name in names])
  ones = jnp.ones(len(names), bool)
  made = tasks.route_of(index, ones, ones)
  return made if exchanges is None else made._replace(exchanges=exchanges)


@functools.cache
def inputs():
  """(state, t, text, route): every route, the first frame given, and none."""
  rng = np.random.default_rng(0)
  state = {
    "video": rng.standard_normal((B, F, H, W, 3)),
    "audio": rng.standard_normal((B, F * 2, 2)),
  }
  names = ["apart", "a2v", "v2a", "joint", "joint", "joint", "a2v", "v2a"]
  routes = route(*names, "apart", exchanges=jnp.arange(B) != 5)
  t = rng.uniform(0.02, 1, B)
  times = {s: np.where(routes.is_generated[s], t, 0) for s in STREAMS}
  times["video"] = np.repeat(times["video"][:, None, None], F, 1)
  times["video"][4, 0] = 0  # i2av
  times["video"][8, 0] = 0  # i2v
  text = rng.standard_normal((B, L, 6))
  floats = jax.tree.map(
    lambda x: jnp.asarray(x, "float32"), (state, times, text)
  )
  return (*floats, routes)


def null_latents():
  """A stand-in for a static video and a muted sound."""
  return {s: 0.3 * x[-1:] for s, x in inputs()[0].items()}


def to_torch(x):
  if isinstance(x, tuple) and hasattr(x, "_asdict"):
    x = x._asdict()
  if isinstance(x, dict):
    return {name: to_torch(a) for name, a in x.items() if a is not None}
  if isinstance(x, tuple):
    return tuple(map(to_torch, x))
  return torch.tensor(np.asarray(x))


def to_numpy(state):
  return {s: np.asarray(x) for s, x in state.items()}


def error(ours, theirs, by_sample=True):
  """Relative in the L2 norm: the largest of any stream, and sample."""
  worst = 0.0
  for s in ours:
    x, y = (np.asarray(a[s], np.float64) for a in (ours, theirs))
    assert x.shape == y.shape
    axes = tuple(range(int(by_sample), x.ndim))
    norms = [np.sqrt(np.square(a).sum(axes)) for a in (x - y, x)]
    worst = max(worst, float((norms[0] / norms[1]).max()))
  return worst
