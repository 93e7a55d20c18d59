"""The kinds of streams, by `model.STREAM.backbone`, and their trunks.

A trunk is the stream through whose blocks a stream runs.

wan      its own blocks, as in Wan2.1 (`dit`)
dit      its own blocks, of an image transformer, frame by frame (`image_dit`)
shared   the other stream's blocks, with its own first and last layer
"""

from collections.abc import Mapping

from ccl_jax.array_types import other
from ccl_jax.config import build, check_choice
from ccl_jax.models.dit import DiT
from ccl_jax.models.image_dit import ImageDiT, SharedDiT
from ccl_jax.models.in_context_stream import InContextStream

BACKBONES = {"wan": DiT, "dit": ImageDiT, "shared": SharedDiT}


def make_stream(kind: str, settings: Mapping, **shared) -> DiT:
  """Makes a stream of its config's section; ValueError for unknown keys."""
  options = dict(settings)
  backbone = options.pop("backbone", "wan")
  check_choice(f"model.{kind}.backbone", backbone, BACKBONES)
  if backbone == "dit" and kind != "video":
    raise ValueError(f"model.{kind}.{backbone=}: expected of video only.")
  is_given = options.pop("in_context", False)
  make = InContextStream if is_given else BACKBONES[backbone]
  return build(make, options, f"model.{kind}", kind=kind, **shared)


def trunk_of(s: str, settings: Mapping[str, Mapping | None]) -> str:
  """Returns the stream whose blocks update s: itself, if it has any.

  Raises:
    ValueError: the other stream is not there, or has other sizes.
  """
  own, trunk = settings[s], other(s)
  key = "in_context" if own.get("in_context") else "backbone"
  if key == "backbone" and own.get("backbone") != "shared":
    return s
  names = ("width", "ffn", "heads")
  theirs = settings[trunk] and tuple(settings[trunk][name] for name in names)
  sizes = tuple(own[name] for name in names)
  if sizes != theirs:
    raise ValueError(
      f"model.{s}.{key} needs the {trunk} stream, and its {names} {theirs}: got"
      f" {sizes}."
    )
  return trunk
