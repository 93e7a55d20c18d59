"""Useful FLOPs of the joint model by formula, per sample.

A product of (n, a) by (a, b) takes 2 n a b. One stream with L layers, width d,
FFN width g, n tokens, l text tokens of width D, r times per sample and p
channels per patch (the mean of input and output):

    self_attention   L 4 n^2 d                     scores and values
    linear           L 8 n d^2                     q, k, v, o
    text_attention   L 4 n l d
    text_linear      L (4 n d^2 + 4 l d^2)         q, o of n; k, v of l tokens
    ffn              L 4 n d g
    embed            4 n p d + 2 l (D d + d^2) + 2 r (256 d + 7 d^2)

With cross-attention to j context tokens and to m tokens of the other stream, of
width e, where the window holds a pairs of query and key:

    cross_attention  L 4 a d
    cross_linear     L (4 n d^2 + 4 m e d + 4 j e d / b)   context once a batch

With image conditioning by i tokens of width w:

    image_attention  L 4 n i d
    image_linear     L 4 i d^2 + 2 i (w^2 + w d)   keys, values; the embedding

Only matrix products count; norms, rotations and softmax do not. Training takes
3 times a forward pass: each product has two in the backward pass (a few at the
borders have one, since latents and text need no gradient). Rematerialisation,
padding and masked keys add nothing. Routing saves nothing: in training all
streams run.

In sampling, the context is projected once per call, and a stream without the
other attends to the context only, a = n j. A cached reference stream runs alone
and without its head, and is projected for the other one, 4 m e d, once for each
text that guidance uses with it; the steps do not repeat this. For audio in
context see `in_context_flops`, for a frozen image model `image_flops`.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ccl_jax.cost import image_flops, in_context_flops
from ccl_jax.streams import STREAMS

Num = int | float  # a frame need not have a whole number of audio tokens
_SIDES = (STREAMS, STREAMS[::-1])  # (side, the other stream)
_WINDOWS = dict(audio_window_radius=1, video_window_radius=0)
# Defaults of the fusions, for options that the config leaves out.
FUSION_DEFAULTS = {
  "cca": dict(
    num_audio_lct=8, num_video_lct=128, tarp=True, dcr=True, **_WINDOWS
  ),
  "gated": dict(
    num_audio_lct=0, num_video_lct=0, tarp=False, dcr=False, **_WINDOWS
  ),
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of one sample.

  Attributes:
    frames, height, width: of the video latents (audio alone: frames only).
    text: number of text tokens.
    batch: samples that share the projection of the context tokens.
    times: times per video sample; `frames` if each frame has its own.
    image: number of tokens of an image that the video is conditioned on.
    pictures: number of reference pictures, each as a frame of the video.
  """

  frames: int
  height: int = 1
  width: int = 1
  text: int = 512
  batch: int = 1
  times: int = 1
  image: int = 0
  pictures: int = 0

  def tokens_per_frame(self, stream: str, section: Mapping[str, Any]) -> Num:
    """Returns the tokens of one stream in one latent frame, on average."""
    if stream == "audio":
      return section["tokens_per_frame"]
    return (self.height // _patch(section)) * (self.width // _patch(section))


def forward_flops(model: Mapping[str, Any], shape: Shape) -> dict[str, float]:
  """Counts FLOPs of one velocity of one sample, {"video/ffn": ...}.

  Args:
    model: the `model` section of a config; "video" or "audio" may be None.

  Raises:
    ValueError: an unknown fusion.
  """
  streams = [s for s in STREAMS if model.get(s) is not None]
  return sample_flops(model, shape, streams, forwards=1)


def sample_flops(
  model: Mapping[str, Any],
  shape: Shape,
  streams: Sequence[str],
  *,
  forwards: int,
  cached: Sequence[str] = (),
  cached_forwards: int = 0,
) -> dict[str, float]:
  """Counts FLOPs of sampling one clip, by part as `forward_flops`.

  Args:
    streams: those that take part; the others never run.
    forwards: velocities evaluated, steps times passes of guidance.
    cached: reference streams, whose keys and values are cached.
    cached_forwards: how often these run, each by itself.
  """
  total = Counter()
  if image_flops.is_of(model):
    parts = _image_model(model, shape, streams)
    return {name: forwards * value for name, value in parts.items()}
  if _in_context(model):
    added = _audio_in_context(model, shape, streams)
    video = _stream(model, "video", model["video"], shape)
    parts = {f"video/{name}": value for name, value in video.items()} | added
    for name, value in parts.items():
      is_cached = name.partition("/")[0] in cached
      total[name] += float((cached_forwards if is_cached else forwards) * value)
    return dict(total)
  for s, other in _SIDES:
    if s not in streams:
      continue
    section, times = model[s], cached_forwards if s in cached else forwards
    for name, value in _stream(model, s, section, shape).items():
      total[f"{s}/{name}"] += float(times * value)
    if s in cached:  # it has no output
      n = shape.frames * shape.tokens_per_frame(s, section)
      head = 2 * n * section["channels"] * _patch(section) ** 2
      total[f"{s}/embed"] -= float(times * head * section["width"])
    if model.get(other) is None or not _fusion_options(model):
      continue
    is_alone = s in cached or other not in streams
    attention, queries, keys, context = _cross_attention(
      model, s, other, shape, is_alone
    )
    projected = cached_forwards if other in cached else forwards
    linear = times * queries + projected * keys + context / shape.batch
    total[f"{s}/cross_attention"] = float(times * attention)
    total[f"{s}/cross_linear"] = float(linear)
  return dict(total)


def train_flops(model: Mapping[str, Any], shape: Shape) -> dict[str, float]:
  """Counts FLOPs of one sample forward and backward, by part."""
  return {k: 3 * v for k, v in forward_flops(model, shape).items()}


def window_pairs(
  frames: int, queries: Num, keys: Num, radius: int, context: int = 0
) -> Num:
  """Counts the visible pairs of `Window(queries, keys, radius, context)`."""
  frame_pairs = sum(
    min(i + radius, frames - 1) - max(i - radius, 0) + 1 for i in range(frames)
  )
  return queries * (frame_pairs * keys + frames * context)


def _stream(model, stream, section, shape: Shape) -> dict[str, Num]:
  """Counts FLOPs of one stream without its cross-attention, by part."""
  layers, d, g = model["num_layers"], section["width"], section["ffn"]
  pictures = shape.pictures if stream == "video" else 0
  n = (shape.frames + pictures) * shape.tokens_per_frame(stream, section)
  text, text_width = shape.text, model["text_width"]
  times = shape.times if stream == "video" else 1
  sinusoid = section.get("frequency_dim", 256)
  condition = section.get("condition_channels", 0)
  d_patches = (2 * section["channels"] + condition) * _patch(section) ** 2
  parts = {
    "self_attention": layers * 4 * n**2 * d,
    "linear": layers * 8 * n * d**2,
    "text_attention": layers * 4 * n * text * d,
    "text_linear": layers * 4 * (n + text) * d**2,
    "ffn": layers * 4 * n * d * g,
    "embed": 2 * n * d_patches * d
    + 2 * text * (text_width + d) * d
    + 2 * times * (sinusoid + 7 * d) * d,
  }
  if stream == "video" and shape.image:
    i, w = shape.image, section["image_width"]
    parts |= {
      "image_attention": layers * 4 * n * i * d,
      "image_linear": layers * 4 * i * d**2 + 2 * i * (w + d) * w,
    }
  return parts


def _fusion_options(model) -> dict[str, Any]:
  """Returns the fusion's settings; empty if the streams never meet."""
  options = dict(model["fusion"])
  kind = options.pop("kind")
  if kind == "independent":
    return {}
  if kind not in FUSION_DEFAULTS:
    known = ", ".join(("independent", *FUSION_DEFAULTS))
    raise ValueError(f"fusion {kind=}: expected one of {known}.")
  return FUSION_DEFAULTS[kind] | options


def _in_context(model) -> bool:
  """Returns whether audio is tokens of the video's blocks."""
  return bool((model.get("audio") or {}).get("in_context"))


def _audio_in_context(model, shape: Shape, streams) -> dict[str, float]:
  """Counts FLOPs that audio adds to the video, if it takes part."""
  s, r = (
    shape.tokens_per_frame(x, model[x]) if x in streams else 0 for x in STREAMS
  )
  parts = in_context_flops.count(model, shape.frames, s, r, shape.pictures)
  return {name: float(value) for name, value in parts.items()}


def _image_model(model, shape: Shape, streams) -> dict[str, float]:
  """Counts FLOPs of an image model and of what learns beside it."""
  per_frame = {s: shape.tokens_per_frame(s, model[s]) for s in streams}
  return image_flops.count(model, shape.frames, per_frame, shape.times, streams)


def _cross_attention(
  model, side, other, shape: Shape, is_alone: bool
) -> tuple[Num, Num, Num, Num]:
  """Counts FLOPs of one side's cross-attention.

  Args:
    is_alone: the other stream is absent, so that `side` attends to context
      only, or to nothing if the model cannot do that.

  Returns:
    FLOPs of scores and values, of projecting queries and the output, of
    projecting the other stream's keys and values, and those of the context.
  """
  options = _fusion_options(model)
  d, e = model[side]["width"], model[other]["width"]
  s, c = (shape.tokens_per_frame(x, model[x]) for x in (side, other))
  context = options[f"num_{other}_lct"]
  radius = shape.frames
  if options["tarp"]:
    radius = options[f"{other}_window_radius"]
  n, m, layers = shape.frames * s, shape.frames * c, model["num_layers"]
  if is_alone and not (options["dcr"] and context):
    return 0, 0, 0, 0
  pairs = window_pairs(shape.frames, s, c, radius, context)
  if is_alone:
    pairs, m = n * context, 0
  return (
    layers * 4 * pairs * d,
    layers * 4 * n * d**2,
    layers * 4 * m * e * d,
    layers * 4 * context * e * d,
  )


def _patch(section: Mapping[str, Any]) -> int:
  return section.get("patch", 1)
