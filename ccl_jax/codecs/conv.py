"""Linear codecs followed by a small convolutional net, trained in a minute.

Latents are those of the linear codecs (`codecs.linear`: mean m, basis B, scale
s). In decoding, a net D, which sees the neighbours of a latent, adds what the
linear codec lacks, such as edges that continue across patches:

  z = (x - m) B / s            x' = m + (z s) B' + D(z)                    (1)

D is trained on clips of the data set, with noise added to z: latents sampled by
a model are noisy too, and D learns to remove the noise. Shapes, rates and
causality are those of the linear codecs: pixel frames depend on one latent
frame only.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import nnx
from jaxtyping import Float, UInt8

from ccl_jax.array_types import Array
from ccl_jax.codecs import api, linear
from ccl_jax.ops.norms import expand_like
from ccl_jax.params import nnx_utils, trees

WIDTH = 96
NOISE = 0.5  # its largest deviation
LEARNING_RATE = 3e-3
CROP = 8  # rows and columns of patches that a step sees, at most
# Draws a batch of vectors x and the weights of their errors.
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


class Net(nnx.Module):
  """D: convolutions of 3 along each axis, and a layer on single vectors.

  Args:
    sizes: number of axes with neighbours, of channels and of values of x.
  """

  def __init__(self, sizes: tuple[int, int, int], *, rngs):
    axes, channels, size = sizes

    def conv(a, b, kernel, **options):
      return nnx.Conv(a, b, (kernel,) * axes, rngs=rngs, **options)

    self.first = conv(channels, WIDTH, 3)
    self.layers = nnx.List([conv(WIDTH, WIDTH, 3) for _ in range(2)])
    self.last = conv(WIDTH, size, 1, kernel_init=nnx.initializers.zeros)

  def __call__(self, z: Float[Array, "b *grid c"]) -> Float[Array, "b *grid d"]:
    x = nnx.gelu(self.first(z))
    for layer in self.layers:
      x = x + nnx.gelu(layer(x))
    return self.last(x)


class _ConvCodec:
  """Eq. 1, to be mixed with a linear codec.

  Args:
    params: of D, path -> array.

  Attributes:
    axes: number of axes on which a latent has neighbours.
    base: the linear codec's class.
  """

  axes: ClassVar[int]
  base: ClassVar[type]

  def __init__(self, mean, basis, scale, **params: np.ndarray):
    super().__init__(mean, basis, scale)
    object.__setattr__(self, "params", params)

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the constructor's arguments."""
    return super().arrays() | self.params

  @functools.cached_property
  def _net(self) -> Callable[[np.ndarray], Array]:
    sizes = self.axes, self.channels, self.size
    net = nnx_utils.bind(Net, sizes, trees.unflatten(self.params))
    return jax.jit(net)

  @classmethod
  def _fit(cls, base: Any, draw: Draw, num_steps: int, name: str):
    """Returns the codec that has the latents of a linear one."""
    sizes = cls.axes, base.channels, base.size
    graph, params = nnx.split(Net(sizes, rngs=nnx.Rngs(0)))
    fixed = {name: jnp.asarray(x) for name, x in base.arrays().items()}
    rate = optax.cosine_decay_schedule(LEARNING_RATE, num_steps)
    optimizer, rng = optax.adam(rate), np.random.default_rng(0)
    state = optimizer.init(params)

    def error(params, x, weight, key):
      mean, scale = (expand_like(fixed[n], x) for n in ("mean", "scale"))
      z = _add_noise(key, (x - mean) @ fixed["basis"] / scale)
      decoded = mean + (z * scale) @ fixed["basis"].T
      wrong = x - decoded - nnx.merge(graph, params)(z)
      return jnp.mean(weight * wrong**2) / jnp.mean(weight)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x, weight, i):
      key = jax.random.fold_in(jax.random.key(0), i)
      value, gradient = jax.value_and_grad(error)(params, x, weight, key)
      change, state = optimizer.update(gradient, state, params)
      return optax.apply_updates(params, change), state, value

    bar = tqdm.trange(num_steps, desc=f"training the {name} codec")
    for i in bar:
      params, state, value = step(params, state, *draw(rng), i)
      if i % 50 == 49:
        bar.set_postfix(error=f"{float(value):.2g}")
    params = jax.device_get(nnx.to_pure_dict(params))
    return cls(**base.arrays(), **trees.flatten(params))


class ConvVideoCodec(_ConvCodec, linear.LinearVideoCodec):
  """(b, 1 + 4k, 8h, 8w, 3) bytes <-> (b, 1 + k, h, w, channels) float32."""

  axes, base = 2, linear.LinearVideoCodec

  @classmethod
  def fit(
    cls,
    clips: Sequence[UInt8[np.ndarray, "t y x 3"]],
    channels: int = 16,
    num_steps: int = 1200,
    batch_size: int = 32,
    foreground: float = 40.0,
  ) -> "ConvVideoCodec":
    """Returns the fitted codec.

    Args:
      num_steps, batch_size: of training, in latent frames.
      foreground: the error of a patch has weight 1 + `foreground` times its
        mean change in [0, 1].
    """

    def draw(rng):
      x = np.concatenate([_draw_frame(rng, clips) for _ in range(batch_size)])
      frames = x.reshape(*x.shape[:-1], cls.stride[0], -1)
      change = np.ptp(frames, axis=-2).mean(-1, keepdims=True)
      return x, 1 + foreground * change

    return cls._fit(cls.base.fit(clips, channels), draw, num_steps, "video")

  def unproject(self, z: api.VideoLatents) -> Float[np.ndarray, "b f h w d"]:
    added = [self._net(z[:, i]) for i in range(z.shape[1])]
    return super().unproject(z) + np.stack(added, 1)


class ConvAudioCodec(_ConvCodec, linear.LinearAudioCodec):
  """(b, s) samples <-> (b, s // 512, channels) float32."""

  axes, base = 1, linear.LinearAudioCodec

  @classmethod
  def fit(
    cls,
    waves: Sequence[Float[np.ndarray, " _"]],
    channels: int = 20,
    num_steps: int = 1000,
    batch_size: int = 32,
  ) -> "ConvAudioCodec":
    """Returns the fitted codec.

    Args:
      num_steps, batch_size: of training, in parts as long as the shortest.
    """
    pairs = [linear.mel_pairs(wave[None])[0] for wave in waves]
    length = min(map(len, pairs))

    def draw(rng):
      chosen = [pairs[i] for i in rng.integers(len(pairs), size=batch_size)]
      starts = [rng.integers(len(x) - length + 1) for x in chosen]
      parts = zip(chosen, starts, strict=True)
      x = np.stack([x[i : i + length] for x, i in parts])
      return x, np.ones_like(x[..., :1])

    return cls._fit(cls.base.fit(waves, channels), draw, num_steps, "audio")

  def unproject(self, z: api.AudioLatents) -> Float[np.ndarray, "b m d"]:
    return super().unproject(z) + np.asarray(self._net(z))


def _add_noise(key: Array, z: Array) -> Array:
  """Returns z with noise, of another deviation in each example."""
  level_key, noise_key = jax.random.split(key)
  level = jax.random.uniform(level_key, (len(z),) + (1,) * (z.ndim - 1))
  return z + NOISE * level * jax.random.normal(noise_key, z.shape)


def _draw_frame(
  rng: np.random.Generator, clips: Sequence[UInt8[np.ndarray, "t y x 3"]]
) -> Float[np.ndarray, "1 h w d"]:
  """Draws a latent frame of a clip, or a part of it if it is large."""
  clip = clips[rng.integers(len(clips))]
  frames, rows, columns = ConvVideoCodec.stride
  f = rng.integers(api.latent_frames(len(clip), frames))
  y, x = (
    patch * rng.integers(max(size // patch - CROP, 0) + 1)
    for size, patch in zip(clip.shape[1:3], (rows, columns), strict=True)
  )
  # As in `linear`, three copies of the first frame are before it.
  times = np.maximum(np.arange(frames * (f - 1), frames * f) + 1, 0)
  part = clip[times, y : y + CROP * rows, x : x + CROP * columns]
  return linear.split_patches(part[None])[:, 0]
