"""Plots of cross-modal attention (Fig. 6 of the paper).

A share is the part of a token's attention that falls on the other stream; the
rest falls on the context tokens (`models.attention_probe`). Black is 0, the
brightest colour the largest share in the clip. Pixel frame t shows latent frame
(t + 3) // 4: the first frame is one latent frame, then every four are one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from ccl_jax.data import contact_sheet
from ccl_jax.data.clip import GeneratedClip
from ccl_jax.storage.text_files import write_json

Shares = Mapping[str, np.ndarray]  # of one clip, see `save_plots`
_COLUMNS, _WIDTH = 12, 1152


def save_plots(
  path: epath.PathLike,
  shares: Shares,
  clip: GeneratedClip,
  steps: Sequence[int],
  layers: Sequence[int],
) -> list[epath.Path]:
  """Writes PATH.attention.png, .json and, of a video, .mp4.

  Args:
    path: of the clip; its suffix is removed.
    shares: "video" (steps, layers, f, h, w) and "audio" (steps, layers, m), or
      one of them.
    clip: shown in the mp4, under the mean over all steps and layers.
    steps, layers: numbers of the sampler steps and layers, along the first two
      axes of the shares.

  Returns:
    The paths written; none if there are no shares.
  """
  if not shares:
    return []
  path = epath.Path(path)
  written = [path.with_suffix(f".attention.{k}") for k in ("png", "json")]
  contact_sheet.save_png(written[0], make_sheet(shares, clip, steps, layers))
  write_json(written[1], mean_shares(shares, steps, layers))
  if "video" in shares and clip.video is not None:
    mean = shares["video"].mean((0, 1))
    shown = GeneratedClip(
      clip.fps, clip.sample_rate, overlay(clip.video, mean), clip.audio
    )
    written.append(shown.save(path.with_suffix(".attention.mp4")))
  return written


def mean_shares(
  shares: Shares, steps: Sequence[int], layers: Sequence[int]
) -> list[dict[str, int | float]]:
  """Returns the mean share of each stream, a row for each step and layer."""
  return [
    {"step": step, "layer": layer}
    | {s: round(float(x[i, j].mean()), 4) for s, x in shares.items()}
    for i, step in enumerate(steps)
    for j, layer in enumerate(layers)
  ]


def make_sheet(
  shares: Shares,
  clip: GeneratedClip,
  steps: Sequence[int],
  layers: Sequence[int],
) -> UInt8[np.ndarray, "y x 3"]:
  """Returns the clip and its log-mel above the shares of all layers."""
  strips = []
  if clip.video is not None:
    strips.append(_row(clip.video))
  if clip.mel is not None:
    strips.append(contact_sheet.mel_image(clip.mel, (96, _WIDTH)))
  maxima = {s: max(float(x.max()), 1e-6) for s, x in shares.items()}
  for i, step in enumerate(steps):
    for j, layer in enumerate(layers):
      bright = ", ".join(f"{s} {top:.3f}" for s, top in maxima.items())
      title = f"step {step}, layer {layer}; bright is {bright}"
      strips.append(contact_sheet.title_line(title, _WIDTH))
      if "video" in shares:
        strips.append(_row(heat(shares["video"][i, j], maxima["video"])))
      if "audio" in shares:
        strip = heat(shares["audio"][i, j][None], maxima["audio"])
        strips.append(_resize(strip, (24, _WIDTH)))
  return np.concatenate(strips)


def heat(
  share: Float[np.ndarray, "*n"], top: float
) -> UInt8[np.ndarray, "*n 3"]:
  """Returns colours; `top` is the brightest."""
  from matplotlib import colormaps

  colours = colormaps["inferno"](np.clip(share / top, 0, 1))
  return (colours[..., :3] * 255).astype(np.uint8)


def overlay(
  video: UInt8[np.ndarray, "t y x 3"], share: Float[np.ndarray, "f h w"]
) -> UInt8[np.ndarray, "t y x 3"]:
  """Returns the video in grey, blended with its shares."""
  colours = heat(share, max(float(share.max()), 1e-6))
  size = video.shape[1:3]
  maps = np.stack([_resize(frame, size, smooth=True) for frame in colours])
  frame = np.minimum((np.arange(len(video)) + 3) // 4, len(maps) - 1)
  grey = video.mean(-1, keepdims=True)
  return ((grey + maps[frame]) / 2).astype(np.uint8)


def _row(frames: UInt8[np.ndarray, "t y x 3"]) -> np.ndarray:
  """Returns evenly spread frames side by side, _WIDTH wide together."""
  chosen = np.linspace(0, len(frames) - 1, _COLUMNS).round().astype(int)
  width = _WIDTH // _COLUMNS
  height = round(width * frames.shape[1] / frames.shape[2])
  row = [_resize(frames[i], (height, width)) for i in chosen]
  return np.concatenate(row, 1)


def _resize(image, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
  how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
  return np.asarray(Image.fromarray(image).resize(size[::-1], how))
