"""Useful FLOPs of the joint model, by hand, per sample.

A product of (n, a) by (a, b) is 2 n a b. One stream of L layers, width d, FFN
width g, n tokens, l text tokens of width D, r times a sample, p channels a
patch (the mean of those that go in and come out):

    self_attention   L 4 n^2 d                     scores and values
    linear           L 8 n d^2                     q, k, v, o
    text_attention   L 4 n l d
    text_linear      L (4 n d^2 + 4 l d^2)         q, o of n; k, v of l tokens
    ffn              L 4 n d g
    embed            4 n p d + 2 l (D d + d^2) + 2 r (256 d + 7 d^2)

and, reading m tokens of the other stream of width e and j context tokens, with
a the pairs of query and key that its window really holds:

    cross_attention  L 4 a d
    cross_linear     L (4 n d^2 + 4 m e d + 4 j e d / b)   context once a batch

and, told of an image by i tokens of width w:

    image_attention  L 4 n i d
    image_linear     L 4 i d^2 + 2 i (w^2 + w d)   keys, values; the embedding

Only matrix products count; norms, rotations and softmax do not. Training is 3
times a forward pass: each product has two in the backward pass (a few at the
borders have one: the latents and the text need no gradient). Nothing is counted
twice for rematerialisation, padding, or masked keys. Routing saves nothing: in
training all towers run.

In sampling, the context is projected once a call, and a stream alone reads only
that, a = n j. A reference stream that is held runs by itself, without its head,
and is projected for the other, 4 m e d, as often as guidance has texts for it;
no step pays for these then.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

STREAMS = ("video", "audio")
# What the fusions take when the config does not say (see models/fusion).
FUSION_DEFAULTS = {
  "cca": dict(
    num_audio_lct=8,
    num_video_lct=128,
    tarp=True,
    dcr=True,
    audio_window_radius=1,
    video_window_radius=0,
  ),
  "gated": dict(
    num_audio_lct=0,
    num_video_lct=0,
    tarp=False,
    dcr=False,
    audio_window_radius=1,
    video_window_radius=0,
  ),
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """What one sample looks like.

  Attributes:
    frames, height, width: video latents (audio alone: frames only).
    text: text tokens.
    batch: samples that share the projection of the context tokens.
    times: times per video sample; `frames` when time is per frame.
    image: tokens of an image that the video stream reads.
  """

  frames: int
  height: int = 1
  width: int = 1
  text: int = 512
  batch: int = 1
  times: int = 1
  image: int = 0

  def tokens_per_frame(self, stream: str, section: Mapping[str, Any]) -> int:
    """Tokens of one stream in one latent frame."""
    if stream == "audio":
      return section["tokens_per_frame"]
    return (self.height // _patch(section)) * (self.width // _patch(section))


def forward_flops(model: Mapping[str, Any], shape: Shape) -> dict[str, float]:
  """FLOPs of one velocity of one sample, {"video/ffn": ...}.

  Args:
    model: the `model` section of a config; "video" or "audio" may be None.

  Raises:
    ValueError: an unknown fusion.
  """
  streams = {s: model[s] for s in STREAMS if model.get(s) is not None}
  parts = {
    f"{s}/{name}": float(value)
    for s, section in streams.items()
    for name, value in _tower(model, s, section, shape).items()
  }
  for s, other in (("video", "audio"), ("audio", "video")):
    if s in streams and other in streams and _options(model):
      reads = _reads(model, s, other, shape)
      linear = reads.queries + reads.keys + reads.context / shape.batch
      parts[f"{s}/cross_attention"] = float(reads.attention)
      parts[f"{s}/cross_linear"] = float(linear)
  return parts


def sample_flops(
  model: Mapping[str, Any],
  shape: Shape,
  streams: Sequence[str],
  *,
  forwards: int,
  held: Sequence[str] = (),
  runs: int = 0,
) -> dict[str, float]:
  """FLOPs of sampling one clip, by part as of `forward_flops`.

  Args:
    streams: those that take part; the tower of another one never runs.
    forwards: velocities evaluated, steps times passes of guidance.
    held: those of the streams that are run by themselves, `runs` times.
  """
  total = Counter()
  for s, other in (("video", "audio"), ("audio", "video")):
    if s not in streams:
      continue
    section, times = model[s], runs if s in held else forwards
    for name, value in _tower(model, s, section, shape).items():
      total[f"{s}/{name}"] += float(times * value)
    if s in held:
      n = shape.frames * shape.tokens_per_frame(s, section)
      head = 2 * n * section["channels"] * _patch(section) ** 2
      total[f"{s}/embed"] -= float(times * head * section["width"])
    if model.get(other) is None or not _options(model):
      continue
    is_alone = s in held or other not in streams
    reads = _reads(model, s, other, shape, is_alone)
    projected = runs if other in held else forwards
    linear = times * reads.queries + projected * reads.keys
    total[f"{s}/cross_attention"] = float(times * reads.attention)
    total[f"{s}/cross_linear"] = float(linear + reads.context / shape.batch)
  return dict(total)


def train_flops(model: Mapping[str, Any], shape: Shape) -> dict[str, float]:
  """FLOPs of one sample forward and backward, by part."""
  return {k: 3 * v for k, v in forward_flops(model, shape).items()}


def window_pairs(
  frames: int, queries: int, keys: int, half: int, context: int = 0
) -> int:
  """Visible pairs of `attention.Window(queries, keys, half, context)`."""
  near = sum(
    min(i + half, frames - 1) - max(i - half, 0) + 1 for i in range(frames)
  )
  return queries * (near * keys + frames * context)


def flash_backward_flops(forward: float, *, fused: bool = False) -> float:
  """What a flash kernel's backward pass executes for an attention forward.

  Forward is 2 products (scores, values). Backward needs 4 (dP, dV, dQ, dK) and
  recomputes the scores: 5 in one kernel. Splash attention's two kernels, dq and
  dkv, each recompute the scores and dP: 3 + 4 = 7. Useful are 4, that is
  2 * forward; the difference belongs into hardware FLOPs only.
  """
  return forward * (5 if fused else 7) / 2


def _tower(model, stream, section, shape: Shape) -> dict[str, int]:
  layers, d, g = model["num_layers"], section["width"], section["ffn"]
  n = shape.frames * shape.tokens_per_frame(stream, section)
  text, text_width = shape.text, model["text_width"]
  times = shape.times if stream == "video" else 1
  sinusoid = section.get("frequency_dim", 256)
  told = section.get("condition_channels", 0)
  d_patches = (2 * section["channels"] + told) * _patch(section) ** 2
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


class _Reads(NamedTuple):
  """What one stream pays to read the other: attention, projections of queries
  (and of the output), of keys and values, of the context's keys and values."""

  attention: int
  queries: int
  keys: int
  context: int


def _options(model) -> dict[str, Any]:
  """What the fusion is built from; empty if the streams never meet."""
  options = dict(model["fusion"])
  kind = options.pop("kind")
  if kind == "independent":
    return {}
  if kind not in FUSION_DEFAULTS:
    known = ", ".join(("independent", *FUSION_DEFAULTS))
    raise ValueError(f"fusion {kind=}: expected one of {known}.")
  return FUSION_DEFAULTS[kind] | options


def _reads(model, side, other, shape: Shape, is_alone: bool = False) -> _Reads:
  """is_alone: `side` reads its context, and nothing where that is no part."""
  options = _options(model)
  d, e = model[side]["width"], model[other]["width"]
  s, c = (shape.tokens_per_frame(x, model[x]) for x in (side, other))
  context = options[f"num_{other}_lct"]
  half = options[f"{other}_window_radius"] if options["tarp"] else shape.frames
  n, m, layers = shape.frames * s, shape.frames * c, model["num_layers"]
  if is_alone and not (options["dcr"] and context):
    return _Reads(0, 0, 0, 0)
  pairs = window_pairs(shape.frames, s, c, half, context)
  if is_alone:
    pairs, m = n * context, 0
  return _Reads(
    attention=layers * 4 * pairs * d,
    queries=layers * 4 * n * d**2,
    keys=layers * 4 * m * e * d,
    context=layers * 4 * context * e * d,
  )


def _patch(section: Mapping[str, Any]) -> int:
  return section.get("patch", 1)
