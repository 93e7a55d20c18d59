"""The codecs of a data set, saved together.

A directory holds `codecs.json` (kind and plain settings of each) and
`codecs.npz` (arrays named "video/mean", "audio/basis", ...). Learned codecs
have no arrays here: their settings name the folder of their weights.

Arrays go in and out as numpy float32. A posterior is the mean and the logarithm
of the variance of each latent, N(mean, exp(logvar)); `encode` is its mean.
"""

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float, Real, UInt8

from ccl_jax.files import local_copy, replacing
from ccl_jax.sharding import ONE_DEVICE, Layout

# Imported when they are asked for: nobody pays for codecs that are not used.
KINDS = {
  "linear_video": "ccl_jax.codecs.linear:LinearVideoCodec",
  "linear_audio": "ccl_jax.codecs.linear:LinearAudioCodec",
  "hashed_text": "ccl_jax.codecs.hashed_text:HashedText",
  "wan_video": "ccl_jax.codecs.wan_video:WanVideoCodec",
  "mmaudio": "ccl_jax.codecs.mmaudio:MMAudioCodec",
  "umt5": "ccl_jax.codecs.umt5_text:UMT5TextCodec",
  "clip": "ccl_jax.codecs.clip:ImageEncoder",
}


@runtime_checkable
class CodecState(Protocol):
  """A codec is its constructor's arguments: plain settings and arrays.

  Learned ones take a `layout` too: rows, a multiple of layout.batch_shards(),
  go over its mesh. To make one reads no weights; its first use does.
  """

  def settings(self) -> dict[str, int | float | str]: ...

  def arrays(self) -> dict[str, np.ndarray]: ...


@runtime_checkable
class VideoCodec(CodecState, Protocol):
  """Pixels <-> latents with mean 0 and deviation about 1 per channel.

  `encode` takes bytes, or numbers on their scale: 127.5 is the grey between.

  has_logvar: whether a posterior has a variance, or is its mean only.
  """

  channels: int
  stride: tuple[int, int, int]
  has_logvar: bool

  def latent_frames(self, frames: int) -> int: ...

  def posterior(
    self, video: UInt8[np.ndarray, "b t y x 3"]
  ) -> tuple[
    Float[np.ndarray, "b f h w c"], Float[np.ndarray, "b f h w c"] | None
  ]: ...

  def encode(
    self, video: Real[np.ndarray, "b t y x 3"]
  ) -> Float[np.ndarray, "b f h w c"]: ...

  def decode(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> UInt8[np.ndarray, "b t y x 3"]: ...

  def stream(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> Iterator[UInt8[np.ndarray, "b t y x 3"]]:
    """What `decode` gives, a piece of time after the other."""
    ...


@runtime_checkable
class AudioCodec(CodecState, Protocol):
  """Mono sound in [-1, 1] <-> latents, `rate` of them a second."""

  channels: int
  sample_rate: int
  rate: float
  has_logvar: bool

  def posterior(
    self, wave: Float[np.ndarray, "b s"]
  ) -> tuple[Float[np.ndarray, "b m c"], Float[np.ndarray, "b m c"] | None]: ...

  def encode(
    self, wave: Float[np.ndarray, "b s"]
  ) -> Float[np.ndarray, "b m c"]: ...

  def mel(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b t mels"]: ...

  def decode(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b s"]: ...


@runtime_checkable
class TextCodec(CodecState, Protocol):
  """Prompts -> one vector per token."""

  width: int
  max_length: int

  def num_tokens(self, text: str) -> int: ...

  def encode(self, text: str) -> Float[np.ndarray, "l d"]: ...

  def encode_all(
    self, texts: Sequence[str]
  ) -> list[Float[np.ndarray, "_ d"]]: ...


@runtime_checkable
class ImageCodec(CodecState, Protocol):
  """Images -> tokens for a video stream to read."""

  def encode(
    self, images: UInt8[np.ndarray, "b y x 3"]
  ) -> Float[np.ndarray, "b i w"]: ...


class Codecs(NamedTuple):
  """What turns clips and prompts into latents, and latents into clips.

  image: for models that read tokens of an image, and only for sampling.
  """

  video: VideoCodec
  audio: AudioCodec
  text: TextCodec
  image: ImageCodec | None = None

  def equals(self, other: "Codecs") -> bool:
    """Whether the other's are of the same kinds, settings and arrays.

    Not compared is `image`, which makes nothing that is trained on.
    """
    return all(
      type(a) is type(b)
      and a.settings() == b.settings()
      and a.arrays().keys() == b.arrays().keys()
      and all(np.array_equal(x, b.arrays()[k]) for k, x in a.arrays().items())
      for a, b in zip(self[:3], other[:3], strict=True)
    )

  def save(self, path: epath.PathLike) -> None:
    """Writes the directory `path`, whole or not at all."""
    there = {k: x for k, x in self._asdict().items() if x is not None}
    described = {
      name: {"kind": kind_of(codec), **codec.settings()}
      for name, codec in there.items()
    }
    arrays = {
      f"{name}/{key}": array
      for name, codec in there.items()
      for key, array in codec.arrays().items()
    }
    with replacing(path) as partial:
      partial.mkdir()
      np.savez(partial / "codecs.npz", **arrays)
      (partial / "codecs.json").write_text(json.dumps(described, indent=2))

  @classmethod
  def load(cls, path: epath.PathLike, layout: Layout = ONE_DEVICE) -> "Codecs":
    """Raises ValueError if `path` holds no codecs or an unknown kind.

    layout: where learned codecs run.
    """
    path = epath.Path(path)
    if not (path / "codecs.json").exists():
      raise ValueError(f"{path} holds no codecs.json: not a codec directory.")
    described = json.loads((path / "codecs.json").read_text())
    with (
      local_copy(path / "codecs.npz") as local,
      np.load(local, allow_pickle=False) as file,
    ):
      arrays = {name: file[name] for name in file.files}
    return cls(
      **{
        name: _from_saved(name, described[name], arrays, layout)
        for name in cls._fields
        if name in described or name not in cls._field_defaults
      }
    )


def make(kind: str, layout: Layout, arguments: Mapping[str, Any]) -> Any:
  """A codec of a kind.

  Raises:
    ValueError: an unknown kind.
  """
  if kind not in KINDS:
    raise ValueError(f"Unknown codec kind {kind!r}; known: {sorted(KINDS)}.")
  module, name = KINDS[kind].split(":")
  codec = getattr(importlib.import_module(module), name)
  takes_layout = "layout" in inspect.signature(codec).parameters
  return codec(**arguments, **({"layout": layout} if takes_layout else {}))


def forget(codec: CodecState) -> None:
  """Lets go of the weights that a codec has read; its next use reads them."""
  for name in ("params", "vocoder_params"):
    vars(codec).pop(name, None)


def kind_of(codec: CodecState) -> str:
  """The name of a codec's class in KINDS."""
  where = f"{type(codec).__module__}:{type(codec).__qualname__}"
  return next(kind for kind, known in KINDS.items() if known == where)


def _from_saved(name: str, described: dict, arrays: dict, layout: Layout):
  settings = dict(described)
  kind = settings.pop("kind")
  prefix = f"{name}/"
  own = {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }
  return make(kind, layout, settings | own)
