"""Compares the codecs of a data set with its clips of the synthetic world:

    python -m tests.bench.codecs --data=LATENTS --clips=WORLD \
        [--splits=easy,hard] [--num=32] [--noise=0.3]

Prints, for each split, how much is lost on the way to latents and back: the
PSNR of the pictures in dB, the mean error of the sound's log10-mel, and the
scores of `metrics.synchworld`. Codecs with a convolutional net (`codecs.conv`)
are compared with the linear codecs that they refine. Latents are decoded with
noise, too, which stands for the errors of a model that samples them.
"""

import numpy as np
from absl import flags
from etils import epath

from ccl_jax import command
from ccl_jax.codecs.api import Codecs
from ccl_jax.codecs.mel import log_mel
from ccl_jax.data import media, records
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.loader import read_clips
from ccl_jax.metrics import bootstrap, synchworld
from tests.codecs.linear_part import linear_part

DATA = flags.DEFINE_string("data", None, "Folder of encoded held-out clips.")
CLIPS = flags.DEFINE_string(
  "clips", None, "Folder of the same clips before encoding."
)
SPLITS = flags.DEFINE_list(
  "splits", ["easy", "hard"], "Splits of the data, separated by commas."
)
NUM = flags.DEFINE_integer(
  "num", 32, "Clips of each split, at most.", lower_bound=1
)
NOISE = flags.DEFINE_float(
  "noise", 0.3, "Standard deviation of the noise; that of latents is 1.",
  lower_bound=0.0,
)  # fmt: skip
SCORES = ("EAC", "onset F1", "SER", "ID")


def main() -> None:
  """Prints the table of each split."""
  for split in SPLITS.value:
    print(f"\n### {split}\n\n{compare(split)}")


def compare(split: str) -> str:
  """Returns the table of a split, in Markdown."""
  codecs = Codecs.load(epath.Path(DATA.value) / "codecs")
  shape = ClipShape.from_dict(records.read_metadata(DATA.value))
  held_out = read_clips(DATA.value, split, NUM.value)
  clips = [
    media.read_clip(
      epath.Path(CLIPS.value) / name, fps=shape.fps, size=shape.size,
      frames=shape.frames, sample_rate=codecs.audio.sample_rate,
    )
    for name in held_out["name"]
  ]  # fmt: skip
  video = np.stack([clip.video for clip in clips])
  sound = np.stack([clip.audio for clip in clips])
  mel = log_mel(sound)
  rows = {"clips": (video, mel)}
  rng = np.random.default_rng(0)
  latents = codecs.video.encode(video), codecs.audio.encode(sound)
  noise = [rng.normal(0, NOISE.value, z.shape) for z in latents]
  kinds = {"linear": Codecs(*map(linear_part, codecs[:2]), codecs.text)}
  if not kinds["linear"].equals(codecs):
    kinds["conv"] = codecs
  for title, level in (("", 0.0), (f", noise {NOISE.value:g}", 1.0)):
    for kind, codec in kinds.items():
      z, y = (
        np.float32(z + level * n) for z, n in zip(latents, noise, strict=True)
      )
      rows[kind + title] = codec.video.decode(z), codec.audio.mel(y)
  names = ["", "PSNR", "log-mel error", *SCORES]
  lines = [names, ["---", *["---:"] * (len(names) - 1)]]
  for title, (pixels, mels) in rows.items():
    length = min(mel.shape[1], mels.shape[1])
    error = np.abs(mels[:, :length] - mel[:, :length]).mean()
    scores = bootstrap.aggregate(
      [
        synchworld.measure(*row, shape.fps)
        for row in zip(held_out["caption"], pixels, mels, strict=True)
      ]
    )
    found = [f"{scores[n].value:.2f}" if n in scores else "-" for n in SCORES]
    lines.append([title, f"{psnr(pixels, video):.1f}", f"{error:.2f}", *found])
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def psnr(got: np.ndarray, wanted: np.ndarray) -> float:
  """Returns the peak signal-to-noise ratio of bytes in dB."""
  error = np.square(np.float32(got) - np.float32(wanted)).mean()
  return float(10 * np.log10(255**2 / error)) if error else float("inf")


if __name__ == "__main__":
  command.run(main, ("data", "clips"))
