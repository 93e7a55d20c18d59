"""Encoding a folder of clips with linear codecs."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ccl_jax.codecs.api import Codecs
from ccl_jax.data import loader, media, records
from ccl_jax.data.encode import dataset
from tests.data import clips

NUM = 14
SETTINGS = dataset.EncodeSettings(
  fps=clips.FPS,
  frames=clips.FRAMES,
  size=clips.SIZE,
  video_channels=6,
  audio_channels=6,
  text_length=6,
  text_width=8,
  validation_fraction=0.2,
  num_workers=0,
)


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / "clips"
  path.mkdir()
  clips.write_clips(path, NUM)
  return path


def test_clips_become_records_that_decode_to_them(folder, tmp_path):
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  assert sum(summary.encoded.values()) == NUM
  assert not summary.left_out
  assert summary.cut_captions == NUM  # Disc 3 . " Oh ! " and the end are 8.
  train = loader.read_clips(tmp_path / "data", "train")
  assert train["caption"][0] == f'Disc {train["name"][0][:-4]}. "Oh!"'
  codecs = Codecs.load(tmp_path / "data" / "codecs")
  sources = [
    media.read_clip(folder / name, frames=clips.FRAMES).video
    for name in train["name"]
  ]
  decoded = codecs.video.decode(train["video"]).astype(float)
  errors = np.square(decoded - sources).mean((1, 2, 3, 4))
  assert errors.mean() < 200  # The noise alone is 64.
  assert (errors < 0.2 * np.var(sources, (1, 2, 3, 4))).all()
  splits = {records.split_by_hash(f"{i}.mp4", 0.2) for i in range(NUM)}
  assert splits == {"train", "validation"} == summary.encoded.keys()


def test_a_bad_clip_is_left_out_with_its_reason(folder, tmp_path):
  whole = (folder / "3.mp4").read_bytes()
  (folder / "3.mp4").write_bytes(whole[: len(whole) // 2])
  video, audio = clips.clip(0)
  media.write_mp4(folder / "4.mp4", video, 25.0)
  media.write_mp4(folder / "5.mp4", video[:3], 25.0, audio)
  media.write_mp4(folder / "new.mp4", video, 25.0, audio)
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  reasons = summary.left_out
  assert reasons.keys() == {"3.mp4", "4.mp4", "5.mp4", "new.mp4"}
  assert reasons["4.mp4"] == "has no audio stream"
  assert reasons["5.mp4"].startswith("video is too short")
  assert reasons["new.mp4"] == "has no caption"
  assert sum(summary.encoded.values()) == NUM - 3


def test_the_summary_says_what_was_left_out_and_passed_over(folder, tmp_path):
  for name in ("4.mp4", "5.mp4"):
    media.write_mp4(folder / name, clips.clip(0).video, 25.0)
  for name in ("a.jpg", "b.JPG", "notes"):
    (folder / name).touch()
  (folder / "gone.mp4").symlink_to("nothing")
  (folder / "up").symlink_to("..")
  (folder / "6.mp4").rename(folder / "6.avi")
  text = (folder / "captions.jsonl").read_text()
  (folder / "captions.jsonl").write_text(text.replace("6.mp4", "./6.avi"))
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  assert str(summary).split("\n")[1:] == [
    "Left out (all in left_out.jsonl of the output):",
    "      2 such as 4.mp4: has no audio stream",
    "      1 gone.mp4: is a link to nothing",
    "      1 up: is a link to a folder that it is in",
    "Passed over, as they are no clips: 2 .jpg, 1 without suffix.",
  ]
  assert f"Encoded {NUM - 2} clips" in str(summary)
  lines = (tmp_path / "data" / "left_out.jsonl").read_text().split("\n")
  assert len(lines) == 5 and "nothing" in lines[2]
  records.read_metadata(tmp_path / "data")


def test_what_is_cut_is_said_once_with_the_keys(folder, tmp_path, capsys):
  dataset.encode_dataset(folder, tmp_path / "whole", SETTINGS)
  assert "keeps" not in capsys.readouterr().out
  media.write_mp4(folder / "0.mp4", *clip_of(125, (48, 96)))
  (folder / "1.mp4").write_text("not a clip")
  dataset.encode_dataset(folder, tmp_path / "cut", SETTINGS)
  assert capsys.readouterr().out == (
    "Encoding keeps of each clip the first 0.20 s of 5.0 s, 24x16 pixels of"
    " 96x48 (0.mp4); 1 of 14 clips that were looked at are larger. To keep"
    " more: --config.encode.windows=all, --config.encode.frames,"
    " --config.encode.fps, --config.encode.size, --config.encode.buckets.\n"
  )


def clip_of(frames, size):
  video, audio = clips.clip(0, frames, size)
  return video, 25.0, audio


def test_a_split_that_is_no_file_name_is_refused_before_clips_are_read(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(media, "read_clip", None)
  text = (folder / "captions.jsonl").read_text()
  row = '{"file": "3.mp4", "split": "../x", '
  text = text.replace('{"file": "3.mp4", ', row)
  (folder / "captions.jsonl").write_text(text)
  before = set(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r"jsonl:4: the split '\.\./x'"):
    dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  assert set(tmp_path.iterdir()) == before


def test_clips_that_lack_what_is_not_needed_are_kept(folder, tmp_path):
  video, audio = clips.clip(0)
  media.write_mp4(folder / "4.mp4", video, 25.0)
  media.write_wav(folder / "z.wav", audio)
  settings = dataclasses.replace(
    SETTINGS, need_video=False, need_audio=False, need_caption=False,
    validation_fraction=0.0,
  )  # fmt: skip
  summary = dataset.encode_dataset(folder, tmp_path / "data", settings)
  assert summary.encoded == {"train": NUM + 1}
  assert summary.without_caption == 1
  read = loader.read_clips(tmp_path / "data", "train")
  has = dict(
    zip(
      read["name"],
      zip(read["has_video"], read["has_audio"], strict=True),
      strict=True,
    )
  )
  assert has["4.mp4"] == (True, False)
  assert has["z.wav"] == (False, True)
  assert read["caption"][read["name"].index("z.wav")] == ""


def test_strange_clips_give_latents_or_a_reason(folder, tmp_path):
  video, audio = clips.clip(0)
  pair = np.stack([audio, audio], 1)
  media.write_mp4(folder / "silent.mp4", video, clips.FPS, 0 * audio)
  media.write_mp4(folder / "loud.mp4", video, clips.FPS, np.sign(audio))
  media.write_mp4(folder / "odd.mp4", video[:, :15, :17], clips.FPS, audio)
  media.write_mp4(folder / "one.mp4", video[:1], clips.FPS, audio)
  media.write_mp4(
    folder / "rate.mp4", video, clips.FPS, np.tile(audio, 3), 48_000
  )
  soundfile.write(folder / "stereo.wav", pair.repeat(3, 0), 48_000)
  soundfile.write(folder / "sample.wav", [0.5], 16_000)
  soundfile.write(folder / "nan.wav", np.nan * audio, 16_000, "FLOAT")
  settings = dataclasses.replace(
    SETTINGS, need_video=False, need_caption=False, validation_fraction=0.0
  )
  summary = dataset.encode_dataset(folder, tmp_path / "data", settings)
  assert {name: reason[:19] for name, reason in summary.left_out.items()} == {
    "one.mp4": "video is too short:",
    "sample.wav": "audio is too short:",
    "nan.wav": "sound reaches nan, ",
  }
  split = records.open_split(tmp_path / "data", "train")
  found = {example["name"]: example for example in split}
  strange = {"silent.mp4", "loud.mp4", "odd.mp4", "rate.mp4", "stereo.wav"}
  assert found.keys() == {f"{i}.mp4" for i in range(NUM)} | strange
  for name in strange:
    assert found[name]["video"].shape == (1 + (name[-3:] == "mp4"), 2, 3, 6)
    assert found[name]["audio"].shape == (6, 6)
  # Its rate is changed and AAC was in between, but it is the sound of 0.mp4.
  same = [found[n]["audio"].astype(np.float32) for n in ("stereo.wav", "0.mp4")]
  assert np.corrcoef(*(x.ravel() for x in same))[0, 1] > 0.9


def test_clips_may_be_pictures(folder, tmp_path):
  """One frame: a data set of images, or with the sound of one frame."""
  settings = dataclasses.replace(SETTINGS, frames=1, need_audio=False)
  dataset.encode_dataset(folder, tmp_path / "data", settings)
  shapes = records.read_metadata(tmp_path / "data")["shapes"]
  assert shapes["video"] == [1, 2, 3, 6] and shapes["audio"] == [5, 6]
  clip = loader.read_clips(tmp_path / "data", "train", 1)
  assert clip["video"].any() and clip["audio"][0, :1].any()
  assert not clip["audio"][0, 1:].any()


def test_given_codecs_are_used(folder, tmp_path):
  codecs = clips.codecs()
  dataset.encode_dataset(folder, tmp_path / "data", SETTINGS, codecs=codecs)
  loaded = Codecs.load(tmp_path / "data" / "codecs")
  np.testing.assert_array_equal(loaded.video.basis, codecs.video.basis)


def test_an_existing_output_is_kept_unless_forced(folder, tmp_path):
  output = tmp_path / "data"
  output.mkdir()
  (output / "mine.txt").touch()
  with pytest.raises(ValueError, match="exists"):
    dataset.encode_dataset(folder, output, SETTINGS)
  assert [path.name for path in output.iterdir()] == ["mine.txt"]
  dataset.encode_dataset(folder, output, SETTINGS, force=True)
  assert not (output / "mine.txt").exists()
  assert records.read_metadata(output)["frames"] == clips.FRAMES


def make_bad(kind, folder):
  if kind == "no clips":
    for path in folder.glob("*.mp4"):
      path.unlink()
  elif kind == "captions of missing files":
    (folder / "3.mp4").unlink()
  elif kind == "all unusable":
    for path in folder.glob("*.mp4"):
      path.write_text("not a clip")
  elif kind == "no captions":
    (folder / "captions.jsonl").unlink()
  elif kind == "all silent":
    for path in folder.glob("*.mp4"):
      media.write_mp4(path, clips.clip(0).video, 25.0)


@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    ("no clips", "No clips"),
    ("captions of missing files", r"3\.mp4"),
    ("all unusable", r"None of .* clips can be used"),
    ("no captions", "has no caption"),
    ("all silent", "has no audio stream"),
  ],
)
def test_bad_input_is_one_error_and_nothing_is_written(
  folder, tmp_path, kind, reason
):
  make_bad(kind, folder)
  before = set(tmp_path.iterdir())
  with pytest.raises(ValueError, match=reason):
    dataset.encode_dataset(folder, tmp_path / "data", SETTINGS, strict=True)
  assert set(tmp_path.iterdir()) == before


def test_captions_of_missing_files_are_counted(folder, tmp_path):
  make_bad("captions of missing files", folder)
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  assert sum(summary.encoded.values()) == NUM - 1
  assert "1 files of the captions are not there, such as 3.mp4" in str(summary)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("codec", "strange"),
    ("frames", 48),
    ("size", (60, 64)),
    ("size", (64, 0)),
    ("validation_fraction", 1.0),
    ("fps", 0.0),
    ("batch_size", 0),
    ("num_workers", -1),
    ("clips_per_shard", 0),
  ],
)
def test_impossible_settings_are_refused(key, value):
  with pytest.raises(ValueError, match=f"encode.{key}"):
    dataset.EncodeSettings(**{key: value})


@pytest.mark.parametrize(
  ("size", "patch", "nearest"),
  [
    ((360, 640), 2, r"16\. The nearest: \(352, 640\) or \(368, 640\)\."),
    ((8, 24), 2, r"16\. The nearest: \(16, 16\) or \(16, 32\)\."),
    ((720, 1288), 4, r"32\. The nearest: \(704, 1280\) or \(736, 1312\)\."),
  ],
)
def test_sizes_that_a_model_cannot_take_are_refused(size, patch, nearest):
  settings = dataset.EncodeSettings(size=size)
  settings.check_patch(1)
  with pytest.raises(
    ValueError, match=f"encode.size=.* multiples of {nearest}"
  ):
    settings.check_patch(patch)
  good = tuple(n - n % (8 * patch) + 8 * patch for n in size)
  dataset.EncodeSettings(size=good).check_patch(patch)


def test_a_patch_of_nothing_is_refused():
  with pytest.raises(ValueError, match="patch is 0: expected 1 or more"):
    dataset.EncodeSettings().check_patch(0)


def test_given_codecs_must_be_of_the_sizes_that_are_said():
  codecs = clips.codecs()
  sizes = dict(video_channels=8, audio_channels=6, text_length=6, text_width=8)
  dataset.EncodeSettings(**sizes).check(codecs)
  with pytest.raises(ValueError, match="text_width is 16, the codecs' is 8"):
    dataset.EncodeSettings(**sizes | {"text_width": 16}).check(codecs)
  with pytest.raises(ValueError, match="cannot be fitted"):
    settings = dataset.EncodeSettings(codec="wan")
    dataset.encode_dataset("clips", "data", settings)


def test_the_command(folder, tmp_path):
  output = tmp_path / "data"
  command = [
    sys.executable, "-m", "ccl_jax.encode", f"--input={folder}",
    f"--output={output}", "--config=configs/ccl.py:size=tiny",
    f"--config.encode.frames={clips.FRAMES}", "--config.encode.num_workers=1",
    "--config.encode.size=(16, 32)",
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "Encoded 14 clips" in done.stdout
  other = [*command[:-1], "--config.encode.size=(360, 640)"]
  done = subprocess.run(other, capture_output=True, text=True)
  assert done.returncode == 2
  assert "nearest: (352, 640) or (368, 640)" in done.stderr.split("\n")[-2]
  again = subprocess.run(command, capture_output=True, text=True)
  assert again.returncode == 2
  assert again.stderr.strip().endswith("replace it with --force.")
