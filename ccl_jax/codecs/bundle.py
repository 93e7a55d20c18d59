"""The three codecs of a data set, saved together.

A directory holds `codecs.json` (kind and plain settings of each) and
`codecs.npz` (arrays named "video/mean", "audio/basis", ...).
"""

import json
from typing import NamedTuple, Protocol

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from ccl_jax.codecs.hashed_text import HashedText
from ccl_jax.codecs.linear import LinearAudioCodec, LinearVideoCodec
from ccl_jax.files import local_copy, replacing

KINDS = {
  "linear_video": LinearVideoCodec,
  "linear_audio": LinearAudioCodec,
  "hashed_text": HashedText,
}


class Saved(Protocol):
  """A codec is its constructor's arguments: plain settings and arrays."""

  def settings(self) -> dict[str, int | float | str]: ...

  def arrays(self) -> dict[str, np.ndarray]: ...


class VideoCodec(Saved, Protocol):
  """Pixels <-> latents with mean 0 and deviation about 1 per channel."""

  channels: int
  stride: tuple[int, int, int]

  def latent_frames(self, frames: int) -> int: ...

  def encode(
    self, video: UInt8[np.ndarray, "b t y x 3"]
  ) -> Float[np.ndarray, "b f h w c"]: ...

  def decode(
    self, latents: Float[np.ndarray, "b f h w c"]
  ) -> UInt8[np.ndarray, "b t y x 3"]: ...


class AudioCodec(Saved, Protocol):
  """Mono sound <-> latents, `rate` of them a second."""

  channels: int
  sample_rate: int
  rate: float

  def encode(
    self, wave: Float[np.ndarray, "b s"]
  ) -> Float[np.ndarray, "b m c"]: ...

  def mel(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b t 80"]: ...

  def decode(
    self, latents: Float[np.ndarray, "b m c"]
  ) -> Float[np.ndarray, "b s"]: ...


class TextCodec(Saved, Protocol):
  """Prompts -> one vector per token."""

  width: int
  max_length: int

  def num_tokens(self, text: str) -> int: ...

  def encode(self, text: str) -> Float[np.ndarray, "l d"]: ...


class Codecs(NamedTuple):
  """What turns clips and prompts into latents, and latents into clips."""

  video: VideoCodec
  audio: AudioCodec
  text: TextCodec

  def equals(self, other: "Codecs") -> bool:
    """Whether the other's are of the same kinds, settings and arrays."""
    return all(
      type(a) is type(b)
      and a.settings() == b.settings()
      and a.arrays().keys() == b.arrays().keys()
      and all(np.array_equal(x, b.arrays()[k]) for k, x in a.arrays().items())
      for a, b in zip(self, other, strict=True)
    )

  def save(self, path: epath.PathLike) -> None:
    """Writes the directory `path`, whole or not at all."""
    kinds = {make: kind for kind, make in KINDS.items()}
    described = {
      name: {"kind": kinds[type(codec)], **codec.settings()}
      for name, codec in self._asdict().items()
    }
    arrays = {
      f"{name}/{key}": array
      for name, codec in self._asdict().items()
      for key, array in codec.arrays().items()
    }
    with replacing(path) as partial:
      partial.mkdir()
      np.savez(partial / "codecs.npz", **arrays)
      (partial / "codecs.json").write_text(json.dumps(described, indent=2))

  @classmethod
  def load(cls, path: epath.PathLike) -> "Codecs":
    """Raises ValueError if `path` holds no codecs or an unknown kind."""
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
      **{name: _make(name, described[name], arrays) for name in cls._fields}
    )


def _make(name: str, described: dict, arrays: dict):
  settings = dict(described)
  kind = settings.pop("kind")
  if kind not in KINDS:
    raise ValueError(f"Unknown codec kind {kind!r}; known: {sorted(KINDS)}.")
  prefix = f"{name}/"
  own = {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }
  return KINDS[kind](**settings, **own)
