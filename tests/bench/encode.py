"""How fast the stages of encode are, in clips a second of one core:

python -m tests.bench.encode --clips=WORLD --data=LATENTS [--num=240]
"""

import time

import numpy as np
from absl import flags

from ccl_jax import command
from ccl_jax.codecs.api import Codecs
from ccl_jax.data import records
from ccl_jax.data.clip import ClipShape
from ccl_jax.data.encode.clip_files import list_clip_files
from ccl_jax.data.encode.decode_pool import DecodePool

CLIPS = flags.DEFINE_string("clips", None, "Folder of clips.")
DATA = flags.DEFINE_string("data", None, "What encode made of them.")
NUM = flags.DEFINE_integer("num", 240, "Clips, at most.", lower_bound=8)
BATCH = 8


def main() -> None:
  """Prints the rates of decoding and of the codecs, by CPU time."""
  shape = ClipShape.from_dict(records.read_metadata(DATA.value))
  codecs = Codecs.load(f"{DATA.value}/codecs")
  files = list_clip_files(CLIPS.value)[: NUM.value]
  pool = DecodePool(
    0, fps=shape.fps, size=shape.size, frames=shape.frames,
    sample_rate=codecs.audio.sample_rate, need_video=True, need_audio=True,
    need_caption=False,
  )  # fmt: skip
  with pool:
    began = time.process_time()
    clips = [clip for _, clip in pool(files)]
    decoding = time.process_time() - began

  def encode(part):
    codecs.video.encode(np.stack([clip.video for clip in part]))
    codecs.audio.encode(np.stack([clip.audio for clip in part]))

  encode(clips[:BATCH])  # compiles
  began = time.process_time()
  for i in range(0, len(clips), BATCH):
    encode(clips[i : i + BATCH])
  encoding = time.process_time() - began
  for name, seconds in (("decoding", decoding), ("codecs", encoding)):
    print(f"{name}: {len(clips) / seconds:.0f} clips/s of a core")


if __name__ == "__main__":
  command.run(main, ("clips", "data"))
