"""The synthetic world in two sizes and two lengths, as four encoded sets."""

import dataclasses
import json

from PIL import Image

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import media
from ccl_jax.data.encode.dataset import encode_dataset
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.data.synthetic.render import render_video
from ccl_jax.data.synthetic.scene import draw_scene, make_captions
from ccl_jax.data.synthetic.sound import render_sound

SETTINGS = EncodeSettings(
  buckets=((49, 32, 32), (25, 16, 16)), video_channels=8, audio_channels=8,
  text_length=32, text_width=64, num_workers=0, validation_fraction=0.0,
)  # fmt: skip
# Of the scenes: half are long and large, half are short and small.
KINDS = ((49, 32), (25, 16))
NUM = 6


def write_scenes(folder):
  """The folders both, sounds, silent and images, each with captions."""
  rows = {name: [] for name in ("both", "sounds", "silent", "images")}
  for name in rows:
    (folder / name).mkdir(parents=True)
  for i in range(NUM):
    (frames, size), scene = KINDS[i % 2], draw_scene(i, False, 49 / 25)
    video = render_video(scene, 49, 25.0, size)[:frames]
    audio = render_sound(scene)[: frames * 640]
    media.write_mp4(folder / "both" / f"{i}.mp4", video, 25.0, audio, crf=10)
    media.write_wav(folder / "sounds" / f"{i}.wav", audio)
    media.write_mp4(folder / "silent" / f"{i}.mp4", video, 25.0, crf=10)
    Image.fromarray(video[0]).save(folder / "images" / f"{i}.png")
    suffixes = {"sounds": "wav", "images": "png"}
    for name, own in rows.items():
      file = f"{i}.{suffixes.get(name, 'mp4')}"
      own.append({"file": file, "split": "train"} | make_captions(scene))
  for name, own in rows.items():
    lines = "\n".join(map(json.dumps, own))
    (folder / name / "captions.jsonl").write_text(lines)


def write(folder):
  """Encodes them into LATENTS/both and others; returns that folder."""
  write_scenes(folder / "clips")
  changes = {
    "both": {},
    "sounds": {"need_video": False},
    "silent": {"need_audio": False},
    "images": {"need_audio": False, "buckets": ((1, 16, 16),)},
  }
  codecs = None
  for name, changed in changes.items():
    encode_dataset(
      folder / "clips" / name, folder / "latents" / name,
      dataclasses.replace(SETTINGS, **changed), codecs=codecs,
    )  # fmt: skip
    codecs = codecs or Codecs.load(folder / "latents" / name / "codecs")
  return folder / "latents"
