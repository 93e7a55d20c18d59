"""Useful FLOPs of an image transformer and its adapters, per sample.

With s tokens in each of f frames, n = f s, m of audio, L blocks of width d and
FFN width g, r times per video sample and text of width D (`models.image_dit`):

    video/self_attention   L 4 n s d                   within frames
    audio/self_attention   L 4 m^2 d
    linear, ffn            L 8 n d^2, L 4 n d g        audio: m for n
    embed                  4 n p d + 2 D d + 2 r (256 d + d^2 + (6 L + 2) d^2)

`models.fusion.avdit`, with adapters of width a, LoRA of rank q and P pairs of
frames in its window, adds

    video/temporal         L (8 n d^2 + 4 n f d)
    audio/adapter          L (4 m a d + 12 m q d)
    joint/self_attention   L 4 (n + m)^2 d P / f^2
    joint/linear           L (n + m) (8 d^2 + 4 a d + 12 q d)
"""

from collections.abc import Mapping, Sequence
from typing import Any

Num = int | float
_DEFAULTS = dict(adapter_ratio=0.25, lora_rank=16, window_radius=1)


def is_of(model: Mapping[str, Any]) -> bool:
  """Returns whether the blocks of a model are those of `image_dit`."""
  return (model.get("video") or {}).get("backbone") == "dit"


def count(
  model: Mapping[str, Any],
  f: int,
  per_frame: Mapping[str, Num],
  times: int,
  streams: Sequence[str],
) -> dict[str, float]:
  """Counts FLOPs of one velocity, by part.

  Args:
    per_frame: stream -> tokens of a frame.
    times: of a video sample.
    streams: those that take part.
  """
  layers, d = model["num_layers"], model["video"]["width"]
  tokens = {s: f * per_frame[s] for s in streams}
  parts = {}
  for s, num in tokens.items():
    seen = per_frame[s] if s == "video" else num
    parts |= {
      f"{s}/self_attention": layers * 4 * num * seen * d,
      f"{s}/linear": layers * 8 * num * d**2,
      f"{s}/ffn": layers * 4 * num * d * model["video"]["ffn"],
      f"{s}/embed": _embed(model, s, num, times if s == "video" else 1),
    }
  if model["fusion"]["kind"] != "frames":
    parts |= _adapters(_DEFAULTS | dict(model["fusion"]), layers, d, f, tokens)
  return {name: float(value) for name, value in parts.items()}


def _embed(model, stream: str, num: Num, times: int) -> Num:
  """Counts FLOPs outside of the blocks, and of their modulation."""
  section, d = model[stream], model["video"]["width"]
  sinusoid = model["video"].get("frequency_dim", 256)
  rows = 6 * model["num_layers"] + 2
  channels = section["channels"] * section.get("patch", 1) ** 2
  return (
    4 * num * channels * d
    + 2 * model["text_width"] * d
    + 2 * times * (sinusoid + d + rows * d) * d
  )


def _adapters(fusion, layers: int, d: int, f: int, tokens) -> dict[str, Num]:
  """Counts FLOPs of all that learns in a layer, and of joint attention."""
  hidden = max(1, round(d * fusion["adapter_ratio"]))
  adapter, lora = 4 * hidden * d, 12 * fusion["lora_rank"] * d
  total, parts = sum(tokens.values()), {}
  radius = fusion["window_radius"]
  pairs = sum(abs(i - j) <= radius for i in range(f) for j in range(f))
  if "video" in tokens:
    n = tokens["video"]
    parts["video/temporal"] = layers * (8 * n * d**2 + 4 * n * f * d)
  if "audio" in tokens:
    parts["audio/adapter"] = layers * tokens["audio"] * (adapter + lora)
  return parts | {
    "joint/self_attention": layers * 4 * (total / f) ** 2 * pairs * d,
    "joint/linear": layers * total * (8 * d**2 + adapter + lora),
  }
