"""Protocols of the codecs, and the codecs of a data set, saved together.

A directory holds `codecs.json` (kind and plain settings of each) and
`codecs.npz` (arrays named "video/mean", "audio/basis", ...). Learned codecs
have no arrays here: their settings name the folder of their weights.

Inputs and outputs are numpy arrays, latents float32. The posterior of a latent
is N(mean, exp(logvar)); `encode` returns its mean.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float, Real, UInt8

from ccl_jax.params import trees
from ccl_jax.params.sharding import ONE_DEVICE, Layout
from ccl_jax.storage.files import read_arrays, replacing
from ccl_jax.storage.text_files import read_json, write_json

# Kind -> class, which is imported at its first use.
KINDS = {
  "linear_video": "ccl_jax.codecs.linear:LinearVideoCodec",
  "linear_audio": "ccl_jax.codecs.linear:LinearAudioCodec",
  "conv_video": "ccl_jax.codecs.conv:ConvVideoCodec",
  "conv_audio": "ccl_jax.codecs.conv:ConvAudioCodec",
  "hashed_text": "ccl_jax.codecs.hashed_text:HashedText",
  "wan_video": "ccl_jax.codecs.wan_video:WanVideoCodec",
  "mmaudio": "ccl_jax.codecs.mmaudio:MMAudioCodec",
  "wav2vec2": "ccl_jax.codecs.wav2vec2_audio:Wav2Vec2Codec",
  "umt5": "ccl_jax.codecs.umt5_text:UMT5TextCodec",
  "clip": "ccl_jax.codecs.clip:CLIPImageCodec",
}


# What codecs take and return; pixels are bytes, or floats in [0, 255].
Pixels = Real[np.ndarray, "b t y x 3"]
Video = UInt8[np.ndarray, "b t y x 3"]
VideoLatents = Float[np.ndarray, "b f h w c"]
Wave = Float[np.ndarray, "b s"]
LogMel = Float[np.ndarray, "b t mels"]
AudioLatents = Float[np.ndarray, "b m c"]


@runtime_checkable
class CodecState(Protocol):
  """The constructor's arguments of a codec: plain settings and arrays.

  Learned codecs also take a `layout`, and split rows over its mesh. Their
  weights are read at the first use, not by the constructor.
  """

  def settings(self) -> dict[str, int | float | str]: ...

  def arrays(self) -> dict[str, np.ndarray]: ...


@runtime_checkable
class VideoCodec(CodecState, Protocol):
  """Pixels <-> latents with mean 0 and deviation about 1 per channel.

  Attributes:
    channels: of the latents.
    stride: pixels per latent in t, y and x.
    has_logvar: `posterior` returns a log-variance, not None.
  """

  channels: int
  stride: tuple[int, int, int]
  has_logvar: bool

  def posterior(
    self, video: Video
  ) -> tuple[VideoLatents, VideoLatents | None]: ...

  def encode(self, video: Pixels) -> VideoLatents: ...

  def decode(self, latents: VideoLatents) -> Video: ...

  def stream(self, latents: VideoLatents) -> Iterator[Video]:
    """Yields the video of `decode`, a chunk of time after the other."""
    ...


@runtime_checkable
class AudioCodec(CodecState, Protocol):
  """Mono sound in [-1, 1] <-> latents, `rate` per second.

  Attributes:
    has_decoder: latents can become sound; else `mel` and `decode` raise
      ValueError.
  """

  channels: int
  sample_rate: int
  rate: float
  has_logvar: bool
  has_decoder: bool

  def posterior(
    self, wave: Wave
  ) -> tuple[AudioLatents, AudioLatents | None]: ...

  def encode(self, wave: Wave) -> AudioLatents: ...

  def mel(self, latents: AudioLatents) -> LogMel: ...

  def decode(self, latents: AudioLatents) -> Wave: ...


@runtime_checkable
class TextCodec(CodecState, Protocol):
  """Prompts -> one vector per token, `width` channels each."""

  width: int
  max_length: int

  def num_tokens(self, text: str) -> int: ...

  def encode(self, text: str) -> Float[np.ndarray, "l d"]: ...

  def encode_all(
    self, texts: Sequence[str]
  ) -> list[Float[np.ndarray, "_ d"]]: ...


@runtime_checkable
class ImageCodec(CodecState, Protocol):
  """Images -> tokens that a video stream reads."""

  def encode(
    self, images: UInt8[np.ndarray, "b y x 3"]
  ) -> Float[np.ndarray, "b i w"]: ...


class Codecs(NamedTuple):
  """Video and audio codec, text encoder, and image encoder if there is one.

  Attributes:
    image: for models that read tokens of an image, for sampling only.
  """

  video: VideoCodec
  audio: AudioCodec
  text: TextCodec
  image: ImageCodec | None = None

  def equals(self, other: "Codecs") -> bool:
    """Returns whether both have the same kinds, settings and arrays.

    `image` is not compared, as training does not use it.
    """
    return all(
      type(a) is type(b)
      and a.settings() == b.settings()
      and a.arrays().keys() == b.arrays().keys()
      and all(np.array_equal(x, b.arrays()[k]) for k, x in a.arrays().items())
      for a, b in zip(self[:3], other[:3], strict=True)
    )

  def save(self, path: epath.PathLike) -> None:
    """Writes the directory `path`; it is complete or absent."""
    codecs = {k: x for k, x in self._asdict().items() if x is not None}
    settings = {
      name: {"kind": kind_of(codec), **codec.settings()}
      for name, codec in codecs.items()
    }
    arrays = {
      f"{name}/{key}": array
      for name, codec in codecs.items()
      for key, array in codec.arrays().items()
    }
    with replacing(path) as partial:
      partial.mkdir()
      np.savez(partial / "codecs.npz", **arrays)
      write_json(partial / "codecs.json", settings)

  @classmethod
  def load(cls, path: epath.PathLike, layout: Layout = ONE_DEVICE) -> "Codecs":
    """Returns the codecs of a directory.

    Args:
      layout: learned codecs split rows over its mesh.

    Raises:
      ValueError: `path` holds no codecs, or one of an unknown kind.
    """
    path = epath.Path(path)
    if not (path / "codecs.json").exists():
      raise ValueError(f"{path} holds no codecs.json: not a codec directory.")
    settings = read_json(path / "codecs.json")
    arrays = trees.unflatten(read_arrays(path / "codecs.npz"))
    codecs = {}
    for name in cls._fields:
      if name in settings or name not in cls._field_defaults:
        own = settings[name] | trees.flatten(arrays.get(name, {}))
        codecs[name] = make_codec(own.pop("kind"), layout, own)
    return cls(**codecs)


def make_codec(kind: str, layout: Layout, arguments: Mapping[str, Any]) -> Any:
  """Returns a codec from its constructor's arguments; ValueError if unknown."""
  if kind not in KINDS:
    raise ValueError(f"Unknown codec kind {kind!r}; known: {sorted(KINDS)}.")
  module, name = KINDS[kind].split(":")
  cls = getattr(importlib.import_module(module), name)
  takes_layout = "layout" in inspect.signature(cls).parameters
  return cls(**arguments, **({"layout": layout} if takes_layout else {}))


def latent_frames(frames: int, stride: int) -> int:
  """Returns the latent frames of a causal codec, 1 + k for 1 + stride k.

  Raises:
    ValueError: another number of frames.
  """
  if frames < 1 or (frames - 1) % stride:
    raise ValueError(
      f"{frames=}: expected 1 + {stride}k frames, such as"
      f" {max(frames - (frames - 1) % stride, 1)}."
    )
  return 1 + frames // stride


def check_video(codec: VideoCodec, video: np.ndarray) -> None:
  """Raises ValueError unless frames and sides fit the codec's stride."""
  time, *space = codec.stride
  latent_frames(video.shape[1], time)
  if video.shape[2] % space[0] or video.shape[3] % space[1]:
    raise ValueError(
      f"{video.shape=}: height and width must be multiples of {space[0]}."
    )


def check_channels(codec: VideoCodec | AudioCodec, latents: np.ndarray) -> None:
  """Raises ValueError unless the latents have the codec's channels."""
  if latents.shape[-1] != codec.channels:
    raise ValueError(
      f"got {latents.shape=}, expected {codec.channels} channels last: decode"
      " with the codecs that made the latents."
    )


def free_weights(codec: CodecState) -> None:
  """Frees the weights that a codec has read; its next use reads them again."""
  # They are cached properties.
  for name in ("params", "vocoder_params"):
    vars(codec).pop(name, None)


def kind_of(codec: CodecState) -> str:
  """Returns the name of a codec's class in KINDS."""
  path = f"{type(codec).__module__}:{type(codec).__qualname__}"
  return next(kind for kind, known in KINDS.items() if known == path)
