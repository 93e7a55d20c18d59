"""Small files of the kinds that people report, each with its right value:

    python -m tests.cases FOLDER

FOLDER has media/, images/, captions/ and prompts/; prints a row for each case:
what it is, what was measured, and what is right. Clips that flash and beep are
measured again after encode and --decode. With a trained run all are then given
to it, to make sound for their pictures and pictures for their sound:

    python -m tests.cases FOLDER WORKDIR

The exit status is 1 if any differs.
"""

import json
import pathlib
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from ccl_jax.data import media
from ccl_jax.data.encode import captions
from ccl_jax.generation import requests
from tests.commands import call
from tests.data import flash

FPS, TIMES = 25.0, (0.48, 1.2, 1.8)


def read(path, *streams, **arguments):
  return media.read_clip(
    path, streams=streams or ("video", "audio"), **arguments
  )


def times(flashes=TIMES, sounds=TIMES, frames=50, fps=FPS, late=0.0):
  """Flash and beep at these times, each flash within a frame of its beep.

  Args:
    late: how much later each flash is in the file itself.
  """

  # A flash that is not in a frame of its beep's time has another offset.
  both = [t for t in flashes if distance(t - late, sounds) < 0.015]

  def check(path):
    clip = read(path, fps=fps, frames=frames)
    seen = flash.flash_times(clip.video, fps)
    heard = flash.beep_times(clip.audio)
    heard = heard[np.diff(heard, prepend=-1) > 0.2]  # of each beep one
    own = [t for t in seen if distance(t, both) < 0.045]
    offset = max(distance(t - late, heard) for t in own)
    found = f"{seen.round(2).tolist()}, {1000 * offset:.0f} ms from the beep"
    return found, offset <= 1 / fps and near(seen, flashes) and near(
      heard, sounds
    )

  return check, f"flash at {list(flashes)}, offset within {1000 / fps:.0f} ms"


def distance(time, times):
  return np.abs(np.subtract(times, time)).min()


def near(found, expected, atol=0.045):
  return len(found) == len(expected) and np.allclose(found, expected, atol=atol)


def colours(atol, turn: Callable = lambda image: image):
  """The quadrants' colours, turned as a person sees them."""

  def check(path):
    image = (
      media.read_image(path) if path.parent.name == "images"
      else read(path, "video").video[0]
    )  # fmt: skip
    error = np.abs(flash.corners(turn(image)) - flash.QUADRANTS).max()
    return f"{error} from the colours", error <= atol

  return check, f"within {atol}"


def round_disc(path):
  """Compares the width and height of the white disc."""
  bright = read(path, "video").video.max(0).mean(-1) > 128
  height, width = bright.any(1).sum(), bright.any(0).sum()
  return f"{width}x{height}", abs(int(height) - int(width)) <= 3


def length(seconds, *streams):
  def check(path):
    clip = read(path, *streams)
    found = (
      len(clip.audio) / 16_000 if clip.audio is not None
      else len(clip.video) / FPS
    )  # fmt: skip
    return f"{found:.2f} s", abs(found - seconds) < 0.1

  return check, f"{seconds} s are read"


def unknown_sound(path):
  try:
    read(path)
  except media.ClipError as error:
    reason = str(error).removeprefix(f"{path}: ")
    frames = len(read(path, "video").video)
    return f"{frames} frames; {reason}", frames == 65 and "format" in reason
  return "read", False


def voice_in_the_centre(path):
  """Loudness of the centre of 5.1 by that of the same voice in stereo."""
  peak = np.abs(read(path, "audio").audio).max()
  other = np.abs(read(path.with_name("base.mp4"), "audio").audio).max()
  level = 20 * np.log10(peak / other)
  return f"{level:.1f} dB", level >= -3.1


def on_white(path):
  image = media.read_image(path)
  y, x = image.shape[0] // 2, image.shape[1] // 2
  return f"{image[y, x].tolist()} in the middle", (image[y, x] == 255).all()


def like_the_first(path):
  difference = np.abs(
    media.read_image(path).astype(int) - media.read_image(
      path.with_name("exif_1.jpg")
    )
  )  # fmt: skip
  return f"{difference.mean():.2f} from exif_1", difference.mean() < 2


def captioned(word, is_error=False):
  """Lists a folder; its files only stand for names."""

  def check(path):
    try:
      listed = captions.list_clips(path).clips
      found = "; ".join(f"{x.name}: {x.caption}" for x in listed if x.caption)
      kind = "read"
    except ValueError as error:
      found, kind = str(error).replace(str(path.parent), "..."), "error"
    is_right = word in found and (kind == "error") == is_error
    return f"{kind}: {found}", is_right

  return check, f"{'an error with' if is_error else 'read:'} {word}"


def prompts(word="", num=2):
  """Reads a list whose lines have one seed each."""

  def check(path):
    found, problems = requests.read_list(path, {"task": "t2av", "seed": 0})
    seeds = [request.seed for request in found]
    is_right = seeds == list(range(num)) and word in " ".join(problems)
    said = " ".join(problems).replace(str(path.parent), "...")
    return f"seeds {seeds} {said}", is_right

  return (
    check,
    f"{num} prompts, seeds by line {word and 'and an error: '}{word}",
  )


# Arguments of `times`; the seconds that are encoded have all flashes.
FLASHES = {
  "media/base.mp4": {},
  "media/noeditlist.mp4": {},
  "media/picture_late_0.3.mp4": {"sounds": (0.18, 0.9, 1.5), "late": 0.3},
  "media/vfr_hold.mp4": {"flashes": (1.6,), "sounds": (1.6,)},
  "media/slides_1fps.mp4": {"flashes": (1.0,), "sounds": (1.0,)},
  "media/fps10.00.mp4": {"flashes": (0.5, 1.2, 1.8)},
  "media/clip.avi": {},
  "media/sound_mono_then_stereo.mkv": {},
  "media/thumbnail_first.mov": {},
  "media/beep_at_the_end.mp4": dict(
    zip(("flashes", "sounds"), 2 * [(1.0, 2.0, 3.0, 4.0, 4.96)], strict=True),
    frames=121, fps=24.0,
  ),
}  # fmt: skip
# File -> how it is measured, and what is right.
CASES = {name: times(**arguments) for name, arguments in FLASHES.items()} | {
  "media/joined_short.mp3": length(3.1, "audio"),
  "media/sound_short_0.5.mp4": length(2.6, "video"),
  "media/still_1_frame.mp4": length(2.6, "audio"),
  "media/unknown_sound.mov": (unknown_sound, "65 frames and a reason"),
  "media/sar_4_3.mp4": (round_disc, "as wide as high"),
  "media/matrix_90.mp4": colours(3, np.rot90),
  "media/matrix_hflip.mp4": colours(3, np.fliplr),
  "media/hdr_hlg.mp4": colours(45),
  "media/bt709_limited.mp4": colours(3),
  "media/untagged_709_hd.mp4": colours(3),
  "media/surround_centre.mp4": (voice_in_the_centre, "-3 dB or louder"),
  "media/voice.m4a": length(2.6, "audio"),
  "images/exif_1.jpg": colours(3),
  "images/exif_2.jpg": (like_the_first, "equal to exif_1.jpg"),
  "images/exif_6.jpg": (like_the_first, "equal to exif_1.jpg"),
  "images/transparent.png": (on_white, "white"),
  "captions/jsonl_key_typo": captioned("speech", is_error=True),
  "captions/jsonl_key_caption": captioned("A man waves."),
  "captions/csv_header_spaces": captioned("Hello"),
  "captions/csv_unquoted_comma_speech": captioned("csv", is_error=True),
  "captions/csv_bom": captioned("A man waves."),
  "captions/csv_latin1": captioned("UTF-8", is_error=True),
  "captions/jsonl_nfc_name": captioned("A"),
  "captions/jsonl_avi": captioned("d.avi: A"),
  "captions/txt_sidecars": captioned("A man waves."),
  "captions/jsonl_quotes_in_video": captioned("Hello"),
  "prompts/u2028.jsonl": prompts(),
  "prompts/bom.jsonl": prompts(),
  "prompts/unknown_key.jsonl": prompts("steps", 0),
}


def show(name, check, path, right):
  """Prints a row; returns whether the case differs."""
  try:
    found, is_right = check(path)
  except Exception as error:
    found, is_right = f"{type(error).__name__}: {error}", False
  mark = "ok" if is_right else "DIFFERS"
  found = found.replace(str(path.parent), "...").replace("\n", " ")
  print(f"| {name} | {found} | {right} | {mark} |", flush=True)
  return not is_right


def decode(folder, work, frames, fps):
  """Encodes all media and decodes them again; returns name -> mp4 file."""
  common = f"--input={folder / 'media'}", f"--output={work / 'data'}"
  settings = {
    "fps": fps, "frames": frames, "size": (96, 128), "need_caption": False,
    "need_audio": False, "need_video": False, "validation_fraction": 0.0,
  }  # fmt: skip
  run("encode", "--config=configs/ccl.py:size=tiny", *common, *(
    f"--config.encode.{name}={value}" for name, value in settings.items()
  ))  # fmt: skip
  run(
    "encode", "--decode", "--num=1000", f"--input={work / 'data'}",
    f"--output={work / 'decoded'}",
  )  # fmt: skip
  return {path.stem: path for path in (work / "decoded").iterdir()}


def run(*command):
  status, text = call(*command)
  if status:
    raise RuntimeError(text[-2000:])
  return text


def sample(folder, workdir, work):
  """Returns a check that makes the other stream of each clip and of images."""
  can = {"v2a": [], "a2v": []}
  for path in sorted((folder / "media").iterdir()):
    for task, stream in (("v2a", "video"), ("a2v", "audio")):
      try:
        clip = read(path, stream, frames=49)
      except media.ClipError:
        continue
      if getattr(clip, stream) is not None:
        can[task].append((stream, path))
  requests = [
    {"task": task, "prompt": "A flash.", stream: str(path), "name": name}
    for task, clips in can.items()
    for stream, path in clips
    for name in [f"{task}_{path.name}"]
  ]
  (work / "list.jsonl").write_text("\n".join(map(json.dumps, requests)))
  run(
    "sample", f"--workdir={workdir}", f"--output={work / 'samples'}",
    f"--prompts={work / 'list.jsonl'}", "--num_inference_steps=2",
  )  # fmt: skip
  return [work / "samples" / f"{x['name']}.mp4" for x in requests]


def main(folder: pathlib.Path, workdir: str | None = None) -> int:
  """Prints the tables; returns how many cases differ."""
  print("| case | measured | right | |\n|---|---|---|---|")
  wrong = sum(
    show(name, check, folder / name, right)
    for name, (check, right) in CASES.items()
  )
  known = {folder / name for name in CASES}
  for file in sorted(folder.glob("*/*")):
    if file not in known:
      print(f"| {file.relative_to(folder)} | not measured | | |")
  print(
    "\n| after encode and --decode | measured | right | |\n|---|---|---|---|"
  )
  with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    for fps, frames in ((25.0, 49), (24.0, 121)):
      decoded = decode(folder, work / f"{fps:g}", frames, fps)
      for name, arguments in FLASHES.items():
        if (arguments.get("fps", 25.0)) == fps:
          check, right = times(**arguments | {"frames": frames})
          path = decoded.get(pathlib.Path(name).stem, work / name)
          wrong += show(name, check, path, right)
    if workdir:
      print("\n| sampled | measured | right | |\n|---|---|---|---|")
      for path in sample(folder, workdir, work):
        wrong += show(path.stem, length_of_result, path, "both streams")
  return wrong


def length_of_result(path):
  clip = read(path)
  found = f"{len(clip.video)} frames, {len(clip.audio) / 16_000:.2f} s"
  return found, abs(len(clip.audio) / 16_000 - len(clip.video) / FPS) < 0.1


if __name__ == "__main__":
  if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
  sys.exit(bool(main(pathlib.Path(sys.argv[1]), *sys.argv[2:])))
