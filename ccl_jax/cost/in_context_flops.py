"""Useful FLOPs of audio in context (`models.fusion.icac`), per sample.

With s tokens of video and r of audio in each of f frames, n = f s, m = f r, and
L layers of width d and FFN width g, where a token reads the other stream in w
frames (w = f if unmasked, else 1):

    video/cross_attention   L 4 n r w d          audio that video reads
    audio/self_attention    L 4 m (s + r) w d    3-D forms
    audio/linear, ffn       L 8 m d^2, L 4 m d g
    audio/embed             2 m c d + 2 (256 d + 7 d^2)

A layer of frames (`frame_attention`) has its own projections. With s' = s if it
reads video, else 0:

    video/cross_attention   L 4 n (s' + r) d
    video/cross_linear      L 4 n d^2, and as much if s'    q, o; k, v
    audio/cross_linear      L 4 m d^2, and as much if audio reads
    audio/cross_attention   L 4 m (s + r) d, if audio reads

A reference picture is a frame of s more video tokens without audio. The audio
tokens that the program pads this frame with are not counted.
"""

from collections.abc import Mapping
from typing import Any

Num = int | float
_3D = {"full3d": False, "masked3d": True}  # whether audio keeps to its frame


def count(
  model: Mapping[str, Any], f: int, s: Num, r: Num, pictures: int = 0
) -> dict[str, Num]:
  """Counts FLOPs of all that audio adds to the video stream, by part."""
  fusion, video, audio = (model[name] for name in ("fusion", "video", "audio"))
  attention = fusion.get("attention", "masked3d")
  layers, d, n, m = model["num_layers"], video["width"], f * s, f * r
  embed = 2 * m * audio["channels"] * d
  pairs, linear = layers * 4 * d, layers * 4 * d**2
  if attention in _3D:
    is_masked, own = _3D[attention], pictures * s
    w = 1 if is_masked else f
    times = 2 * (video.get("frequency_dim", 256) + 7 * d) * d if m else 0
    return {
      "video/cross_attention": pairs * (n * r * w + own * m * (not is_masked)),
      "audio/self_attention": pairs * m * ((s + r) * w + own * (not is_masked)),
      "audio/linear": 2 * linear * m,
      "audio/ffn": pairs * m * video["ffn"],
      "audio/embed": embed + times,
    }
  reads_video, updates = attention != "cross2d", attention == "self2d"
  own = pictures * s * reads_video
  return {
    "video/cross_attention": pairs * (n * (r + s * reads_video) + own * s),
    "video/cross_linear": linear * (n + own) * (1 + reads_video),
    "audio/cross_attention": pairs * m * (s + r) * updates,
    "audio/cross_linear": linear * m * (1 + updates),
    "audio/embed": embed,
  }
