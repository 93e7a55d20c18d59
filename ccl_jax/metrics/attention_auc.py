"""Measures how well attention on the context tokens separates the background.

The paper's Fig. 6 claims that the background attends to the learnable context
tokens (LCT), and the foreground to the other stream. With A the share of a
token's cross-modal attention that is on the LCT, and the known parts of the
synthetic world (face, with its mouth, and ball; speech and clicks) as the
foreground, the claim is measured within a clip by

    AUC = P(A_background > A_foreground) + P(equal) / 2                    (1)

over pixels or mel frames, each with the share of its token: 1 supports the
claim fully, 0.5 is no relation. A clip without a recognised face has no AUC.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Float

from ccl_jax.codecs.mel import SILENCE, log_mel
from ccl_jax.data.clip import GeneratedClip
from ccl_jax.metrics import tables, tracks
from ccl_jax.storage.files import replacing

# Stream -> its parts that are foreground; a mouth is in its face.
FOREGROUND = {"video": ("face", "ball"), "audio": ("speech", "clicks")}
COLUMNS = ("AUC", "background", "face", "mouth", "ball", "speech", "clicks")
_NONE = (
  "Not measured: no clip shows a face, or the model has no context tokens"
  " (fusion=cca has)."
)
# (steps, layers) of numbers; nan where a clip lacks the part.
Found = dict[str, Float[np.ndarray, "steps layers"]]
# Column -> mean over clips, and half of its 95 % interval of drawing others.
Row = dict[str, tuple[float, float]]


class Parts(NamedTuple):
  """A stream's pixels or mel frames, all in one row.

  Attributes:
    token: of each, the index of its token.
    masks: name of a part -> which belong to it.
  """

  token: np.ndarray
  masks: dict[str, Bool[np.ndarray, " p"]]


def measure_batch(
  clips: Sequence[GeneratedClip],
  shares: Mapping[str, Float[np.ndarray, "b s l *tokens"]],
) -> list[dict[str, Found]]:
  """Returns `measure` of each clip of a batch, whose clips come first."""
  return [
    measure(clip, {s: np.asarray(x[i]) for s, x in shares.items()})
    for i, clip in enumerate(clips)
  ]


def measure(
  clip: GeneratedClip, shares: Mapping[str, Float[np.ndarray, "s l *tokens"]]
) -> dict[str, Found]:
  """Returns the AUC and each part's mean share on the LCT, of each stream.

  Args:
    clip: as it was sampled, decoded.
    shares: of `models.attention_probe`, of the other stream, for this clip:
      "video" (steps, layers, f, h, w), "audio" (steps, layers, m).
  """
  found = {}
  for stream, other in shares.items():
    find = {"video": find_video_parts, "audio": find_audio_parts}[stream]
    if parts := find(clip, other.shape[2:]):
      tokens = 1 - other.reshape(*other.shape[:2], -1)
      found[stream] = score_parts(tokens, parts, FOREGROUND[stream])
  return found


def find_video_parts(
  clip: GeneratedClip, grid: tuple[int, int, int]
) -> Parts | None:
  """Returns the pixels; the first latent frame has one, the others have four.

  Args:
    grid: latent frames, and rows and columns of tokens.
  """
  masks = tracks.video_parts(clip.video)
  if not masks:
    return None
  shape, (f, h, w) = clip.video.shape[:3], grid
  frame = np.minimum((np.arange(shape[0]) + 3) // 4, f - 1)[:, None, None]
  row = (np.arange(shape[1]) * h // shape[1])[:, None]
  column = np.arange(shape[2]) * w // shape[2]
  token = (frame * h + row) * w + column
  return Parts(token.ravel(), {k: x.ravel() for k, x in masks.items()})


def find_audio_parts(clip: GeneratedClip, grid: tuple[int]) -> Parts:
  """Returns the mel frames; grid: the number of tokens, evenly spread."""
  mel = log_mel(clip.audio[None])[0] if clip.mel is None else clip.mel
  mel = np.nan_to_num(mel, nan=SILENCE, posinf=SILENCE, neginf=SILENCE)
  token = np.arange(len(mel)) * grid[0] // len(mel)
  return Parts(token, tracks.sound_parts(mel))


def score_parts(
  on_lct: Float[np.ndarray, "s l n"], parts: Parts, foreground: Sequence[str]
) -> Found:
  """Returns (1) and the mean share of the background and of each part.

  Args:
    on_lct: of each token, at each step and layer.
  """
  *shape, num = on_lct.shape
  front = np.any([parts.masks[name] for name in foreground], 0)
  masks = {"front": front, "background": ~front} | parts.masks
  weights = {
    name: np.bincount(parts.token[mask], minlength=num).astype(float)
    for name, mask in masks.items()
  }
  front, back = weights.pop("front"), weights["background"]
  aucs = [weighted_auc(row, back, front) for row in on_lct.reshape(-1, num)]
  return {"AUC": np.reshape(aucs, shape)} | {
    name: on_lct @ w / w.sum() if w.any() else np.full(shape, np.nan)
    for name, w in weights.items()
  }


def weighted_auc(
  value: Float[np.ndarray, " n"],
  high: Float[np.ndarray, " n"],
  low: Float[np.ndarray, " n"],
) -> float:
  """Returns P(value of a "high" one > of a "low" one) + P(equal) / 2.

  Args:
    high, low: how many ones of each kind have value i; nan without either.
  """
  if not (high.any() and low.any()):
    return float("nan")
  _, rank = np.unique(value, return_inverse=True)
  highs, lows = (np.bincount(rank, weight) for weight in (high, low))
  below = np.cumsum(lows) - lows / 2
  return float(highs @ below / (highs.sum() * lows.sum()))


def summarize(
  settings: Mapping[str, Sequence[Mapping[str, Found]]], layers: Sequence[int]
) -> dict[str, Row]:
  """Returns "SETTING STREAM, layer N" -> its means over clips.

  The mean over a clip's steps counts. "clips" is how many have the stream.

  Args:
    settings: how clips were made -> `measure` of each.
    layers: numbers of the layers, along the second axis.
  """
  rows = {}
  for setting, clips in settings.items():
    for stream in dict.fromkeys(s for clip in clips for s in clip):
      found = [clip[stream] for clip in clips if stream in clip]
      for i, layer in enumerate(layers):
        row = {"clips": (float(len(found)), 0.0)}
        for name in COLUMNS:
          values = [x[name][:, i].mean() for x in found if name in x]
          row |= _mean(name, values)
        rows[f"{setting} {stream}, layer {layer}"] = row
  return rows


def _mean(name: str, values: Sequence[float]) -> Row:
  """Returns name -> mean and half of its interval; {} if no clip has it."""
  finite = np.array(values)[np.isfinite(values)]
  if not len(finite):
    return {}
  spread = finite.std(ddof=1) if len(finite) > 1 else 0.0
  return {
    name: (float(finite.mean()), float(1.96 * spread / len(finite) ** 0.5))
  }


def report(title: str, rows: Mapping[str, Row]) -> str:
  """Returns a Markdown table of `summarize`'s rows."""
  if not rows:
    return f"### {title}\n\n{_NONE}\n"
  names = [x for x in COLUMNS if any(x in row for row in rows.values())]
  lines = []
  for row_name, row in rows.items():
    cells = [
      "{:.2f} ±{:.2f}".format(*row[x]) if x in row else "-" for x in names
    ]
    lines.append([row_name, *cells, f"{row['clips'][0]:.0f}"])
  return (
    f"### {title}\n\nShare of cross-modal attention on the context tokens, and"
    " AUC of background over\nforeground, with half of the 95 % interval:\n\n"
    f"{tables.markdown(['', *names, 'clips'], lines)}\n"
  )


def plot(path: epath.PathLike, rows: Mapping[str, Row]) -> None:
  """Plots `summarize`'s rows, if any: the shares, below their AUC."""
  if not rows:
    return
  from matplotlib.figure import Figure

  streams = dict.fromkeys(name.rpartition(", ")[0] for name in rows)
  columns = len(rows) // len(streams)
  figure = Figure(
    figsize=(2.6 * columns, 2.4 * len(streams)), layout="constrained"
  )
  panels = figure.subplots(len(streams), columns, squeeze=False).ravel()
  for axes, (name, row) in zip(panels, rows.items(), strict=True):
    parts = [x for x in COLUMNS[1:] if x in row]
    means, halves = np.transpose([row[x] for x in parts])
    colours = ["0.6" if x == "background" else "tab:orange" for x in parts]
    axes.bar(parts, means, yerr=halves, color=colours)
    auc = f"AUC {row['AUC'][0]:.2f}" if "AUC" in row else "no AUC"
    axes.set(title=f"{name}: {auc}", ylim=(0, 1.05))
    axes.title.set_fontsize(9)
    axes.tick_params(labelsize=7)
  panels[0].set_ylabel("share on the LCT", fontsize=8)
  with replacing(path) as partial:
    figure.savefig(str(partial), format="png", dpi=110)
