"""SyncNet (Chung & Zisserman 2016) embeds mouth and voice in one space.

There are two towers, one for 5 frames of a face (224 pixels) and one for 20
frames of MFCC (0.2 s). Each consists of convolutions, followed by batch norm,
ReLU and perhaps a pool, and of two linear layers, and returns 1024 channels.
Batch norms are folded into the preceding kernels when weights are read. The
face's tower runs over all frames at once, which equals running it window by
window.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ccl_jax.convert.torch_files import LazyStateDict, open_torch_file
from ccl_jax.ops.norms import expand_like

FILE = "syncnet_v2.model"
FACE_SIZE, FACE_WINDOW = 224, 5
NUM_MFCC, MFCC_WINDOW = 13, 20
WIDTH = 1024
_EPSILON = 1e-5  # of the batch norms
CHUNK = 16  # windows at a time: a fixed shape, and a few hundred MB

Layer = dict[str, Array]  # kernel and bias
Params = dict[str, list[Layer]]


class Conv(NamedTuple):
  """A convolution.

  Attributes:
    index: its place in PyTorch's Sequential.
    pool: window, stride and padding of a maximum after it; () for none.
  """

  index: int
  features: int
  kernel: tuple[int, ...]
  stride: tuple[int, ...]
  padding: tuple[int, ...]
  pool: tuple[tuple[int, ...], ...] = ()


_SAME = ((3, 3), (1, 1), (1, 1))
_SAME_3D = ((1, 3, 3), (1, 1, 1), (0, 1, 1))
VOICE = (
  Conv(0, 64, *_SAME),
  Conv(4, 192, *_SAME, ((3, 3), (1, 2), (0, 0))),
  Conv(8, 384, *_SAME),
  Conv(11, 256, *_SAME),
  Conv(14, 256, *_SAME, ((3, 3), (2, 2), (0, 0))),
  Conv(18, 512, (5, 4), (1, 1), (0, 0)),
)
_POOL = ((1, 3, 3), (1, 2, 2))
FACE = (
  Conv(0, 96, (5, 7, 7), (1, 2, 2), (0, 0, 0), (*_POOL, (0, 0, 0))),
  Conv(4, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1), (*_POOL, (0, 1, 1))),
  Conv(8, 256, *_SAME_3D),
  Conv(11, 256, *_SAME_3D),
  Conv(14, 256, *_SAME_3D, (*_POOL, (0, 0, 0))),
  Conv(18, 512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
)
# Our name -> its table, channels of its input, and names of its Sequentials.
_TOWERS = {
  "voice": (VOICE, 1, "netcnnaud", "netfcaud"),
  "face": (FACE, 3, "netcnnlip", "netfclip"),
}


def load(path: pathlib.Path) -> Params:
  """Returns the parameters of `syncnet_v2.model`, batch norms in their kernels.

  Raises:
    ValueError: not a file of PyTorch's, or not of this model.
  """
  state = open_torch_file(path)
  _check(state)
  read = lambda name: state.read(name).astype(np.float64)  # noqa: E731
  params: Params = {}
  for tower, (convs, _, body, head) in _TOWERS.items():
    pairs = [(f"{body}.{c.index}", f"{body}.{c.index + 1}") for c in convs]
    pairs += [(f"{head}.0", f"{head}.1"), (f"{head}.3", "")]
    params[tower] = [_fold_layer(read, *pair) for pair in pairs]
  return params


def expected_shapes() -> dict[str, tuple[int, ...]]:
  """Returns the name and shape of every array of the file."""
  found: dict[str, tuple[int, ...]] = {}

  def add(name: str, shape: tuple[int, ...], norm: str) -> None:
    found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]
    parts = ("weight", "bias", "running_mean", "running_var") if norm else ()
    found.update({f"{norm}.{part}": shape[:1] for part in parts})

  for convs, channels, body, head in _TOWERS.values():
    for c in convs:
      shape = (c.features, channels, *c.kernel)
      add(f"{body}.{c.index}", shape, f"{body}.{c.index + 1}")
      channels = c.features
    add(f"{head}.0", (512, channels), f"{head}.1")
    add(f"{head}.3", (WIDTH, 512), "")
  return found


def _check(state: LazyStateDict) -> None:
  expected = expected_shapes()
  # Old versions of PyTorch do not count batches.
  theirs = {
    name: tuple(x.shape)
    for name, x in state.shapes.items()
    if not name.endswith("num_batches_tracked")
  }
  wrong = [
    f"{name} is {theirs.get(name, 'absent')}, expected"
    f" {expected.get(name, 'none')}"
    for name in sorted(expected.keys() | theirs.keys())
    if expected.get(name) != theirs.get(name)
  ]
  if wrong:
    raise ValueError(
      f"'{state.origin}' is not SyncNet's {FILE}: {len(wrong)} arrays differ,"
      f" such as {'; '.join(wrong[:3])}."
    )


def _fold_layer(read, name: str, norm: str) -> Layer:
  """Returns kernel (space..., in, out) and bias of a layer and its norm."""
  kernel, bias = read(f"{name}.weight"), read(f"{name}.bias")
  kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
  if norm:
    scale = read(f"{norm}.weight") / np.sqrt(
      read(f"{norm}.running_var") + _EPSILON
    )
    kernel = kernel * scale
    bias = (bias - read(f"{norm}.running_mean")) * scale + read(f"{norm}.bias")
  return {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}


def in_chunks(
  function: Callable[[Array], Array],
  rows: np.ndarray,
  size: int,
  overlap: int = 0,
) -> np.ndarray:
  """Returns `function` of `size` rows at a time, so that one program does.

  Args:
    overlap: further rows that a chunk shares with the next one.
  """
  num, chunks = len(rows) - overlap, []
  for start in range(0, num, size):
    part = rows[start : start + size + overlap]
    padding = [(0, size + overlap - len(part))] + [(0, 0)] * (part.ndim - 1)
    chunks.append(function(jnp.asarray(np.pad(part, padding), jnp.float32)))
  return np.concatenate(chunks)[:num]


def embed_faces(
  params: Params, faces: Float[np.ndarray, "t y x 3"]
) -> Float[np.ndarray, "n d"]:
  """Returns a vector of every window of 5 frames: n = t - 4.

  Args:
    faces: BGR, 0 to 255, `FACE_SIZE` pixels on a side.
  """

  def embed(part):
    return _embed(FACE, params["face"], part[None])

  return in_chunks(embed, faces, CHUNK, FACE_WINDOW - 1)


def embed_voice(
  params: Params, mfcc: Float[np.ndarray, "m 13"], num: int
) -> Float[np.ndarray, "n d"]:
  """Returns a vector of `num` windows of 20 frames, which begin 4 apart."""
  starts = 4 * np.arange(num)[:, None] + np.arange(MFCC_WINDOW)
  # Coefficients are rows in PyTorch, times are columns.
  windows = mfcc[starts].transpose(0, 2, 1)[..., None]
  embed = functools.partial(_embed, VOICE, params["voice"])
  return in_chunks(embed, windows, CHUNK)


@functools.partial(jax.jit, static_argnames="convs")
def _embed(
  convs: tuple[Conv, ...], layers: Sequence[Layer], x: Float[Array, "b *s c"]
) -> Float[Array, "n d"]:
  """Returns a tower's vectors, one for each place that its kernels leave."""
  space = "TYX"[5 - x.ndim :]
  for conv, layer in zip(convs, layers, strict=False):
    x = jax.lax.conv_general_dilated(
      x, layer["kernel"], conv.stride, [(p, p) for p in conv.padding],
      dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
      precision="highest",
    )  # fmt: skip
    x = jax.nn.relu(x + expand_like(layer["bias"], x))
    if conv.pool:
      window, stride, padding = conv.pool
      x = nnx.max_pool(x, window, stride, [(p, p) for p in padding])
  x = x.reshape(-1, x.shape[-1])
  first, last = layers[len(convs) :]
  return _dense(last, jax.nn.relu(_dense(first, x)))


def _dense(layer: Layer, x: Float[Array, "n c"]) -> Float[Array, "n d"]:
  x = jnp.dot(x, layer["kernel"], precision="highest")
  return x + expand_like(layer["bias"], x)
