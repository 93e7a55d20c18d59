"""The shape that each clip of a set with several shapes gets."""

import dataclasses
import json

import pytest
from PIL import Image

from ccl_jax.data import loader, media, records
from ccl_jax.data.clip import Extent
from ccl_jax.data.encode import buckets, dataset
from ccl_jax.data.encode.settings import EncodeSettings
from tests.data import clips

SETTINGS = EncodeSettings(
  buckets=((5, 16, 24), (9, 24, 16)), video_channels=6, audio_channels=6,
  text_length=6, text_width=8, validation_fraction=0.0, num_workers=0,
)  # fmt: skip
WIDE, SQUARE, TALL = (48, 352, 640), (48, 512, 512), (48, 640, 352)


def chosen(extent, shapes, **changes):
  """Returns the shape as it is written, or the problem."""
  shapes = tuple((1 + 4 * (n // 4), y, x) for n, y, x in shapes)
  settings = EncodeSettings(buckets=shapes, **changes)
  shape, problem = buckets.choose(extent, settings)
  return problem or (shape.frames, *shape.size)


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    ((1080, 1920), (49, 352, 640)),
    ((480, 640), (49, 512, 512)),
    ((1920, 1080), (49, 640, 352)),
    ((512, 512), (49, 512, 512)),
    ((500, 2000), (49, 352, 640)),
  ],
)
def test_the_crop_that_keeps_most_of_a_picture_is_chosen(size, expected):
  for shapes in ((WIDE, SQUARE, TALL), (TALL, SQUARE, WIDE)):
    assert chosen(Extent(size, 5.0), shapes) == expected


@pytest.mark.parametrize(
  ("seconds", "windows", "expected"),
  [(9.0, "first", 121), (4.0, "first", 49), (1.5, "first", 25),
   (9.0, "all", 25), (5.0, "all", 121), (1.0, "first", 25),
   (0.5, "first", 25), (0.0, "first", 25)],
)  # fmt: skip
def test_the_length_that_keeps_most_of_the_time_is_chosen(
  seconds, windows, expected
):
  """Of 9 s, nine windows of a second keep more than one of 4.84 s."""
  lengths = [(n, 64, 64) for n in (48, 120, 24)]
  found = chosen(Extent((64, 64), seconds), lengths, windows=windows)
  assert found == (expected, 64, 64)


def test_of_shapes_that_keep_as_much_the_sharpest_is_chosen():
  shapes = [(48, 64, 112), (48, 352, 640), (48, 128, 224)]
  assert chosen(Extent((1080, 1920), 5.0), shapes) == (49, 352, 640)
  assert chosen(Extent((150, 270), 5.0), shapes) == (49, 128, 224)


def test_clips_are_enlarged_up_to_a_limit():
  assert chosen(Extent((48, 80), 5.0), [WIDE], max_upscale=8.0)[0] == 49
  problem = chosen(Extent((48, 80), 5.0), [WIDE])
  assert problem == (
    "is 80x48 pixels: its buckets would enlarge it 8.00 times,"
    " encode.max_upscale is 1.5"
  )


def test_a_sound_goes_to_the_smallest_pictures_of_its_length():
  shapes = [WIDE, (48, 64, 64), (24, 32, 32)]
  assert chosen(Extent(None, 5.0), shapes) == (49, 64, 64)
  assert chosen(Extent(None, 1.2), shapes) == (25, 32, 32)


def test_stills_and_only_they_go_to_shapes_of_one_frame():
  shapes = [(0, 64, 64), (48, 64, 64)]
  assert chosen(Extent((64, 64), 0.0, is_image=True), shapes)[0] == 1
  assert chosen(Extent((64, 64), 0.04), shapes)[0] == 1
  assert chosen(Extent((64, 64), 0.5), shapes)[0] == 49
  assert chosen(Extent((64, 64), 0.0), shapes)[0] == 49


@pytest.mark.parametrize(
  ("value", "reason"),
  [
    ((5, 16, 24), "expected triples"),
    (((5, 16),), "expected triples"),
    (((5, 16, 24), (6, 16, 24)), r"\(6, 16, 24\): expected as its frames 1 \+"),
    (((5, 16, 20),), "expected as its size two multiples of 8"),
    (((5, 16, -24),), "expected as its size"),
    (((5.0, 16, 24),), "expected as its frames"),
    ((("5", 16, 24),), "expected as its frames"),
    (((5, 16, 24), (5, 16, 24)), "a shape twice"),
  ],
)
def test_wrong_buckets_are_one_error(value, reason):
  with pytest.raises(ValueError, match=f"encode.buckets.*{reason}") as caught:
    EncodeSettings(buckets=value)
  assert "\n" not in str(caught.value)


def test_every_bucket_must_fit_the_model():
  with pytest.raises(ValueError, match=r"encode.buckets=\(16, 24\)"):
    SETTINGS.check_patch(2)


def write(folder, name, frames, size, audio=True):
  video, sound = clips.clip(0, frames, size)
  media.write_mp4(folder / name, video, 25.0, sound if audio else None)


@pytest.fixture
def folder(tmp_path):
  """Clips of two lengths and aspects, a sound, a picture and a short one."""
  path = tmp_path / "clips"
  path.mkdir()
  for i in range(3):
    write(path, f"wide{i}.mp4", 6, (32, 48))
    write(path, f"tall{i}.mp4", 10, (48, 32))
  write(path, "short.mp4", 2, (32, 48))
  write(path, "tiny.mp4", 6, (8, 8))
  media.write_wav(path / "sound.wav", clips.clip(1, 30).audio)
  Image.fromarray(clips.clip(2, 1, (40, 30)).video[0]).save(path / "still.png")
  rows = [
    {"file": x.name, "text": f"A {x.stem}.", "split": "train"}
    for x in sorted(path.iterdir())
    if x.name != "still.png"
  ]
  (path / "still.txt").write_text("A still.")
  (path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return path


def test_each_clip_is_encoded_in_its_shape(folder, tmp_path, capsys):
  settings = dataclasses.replace(
    SETTINGS, buckets=(*SETTINGS.buckets, (1, 24, 16)), need_video=False
  )
  summary = dataset.encode_dataset(folder, tmp_path / "data", settings)
  assert summary.encoded == {"train": 8}
  assert set(summary.left_out) == {"short.mp4", "tiny.mp4"}
  assert "too short" in summary.left_out["short.mp4"]
  assert "enlarge it 3.00 times" in summary.left_out["tiny.mp4"]
  said = "Clips: 4 in 5x16x24, 4 in 9x24x16, 1 in 1x24x16"
  assert said in capsys.readouterr().out
  names, shapes = {}, {}
  for path in records.list_buckets(tmp_path / "data"):
    found = loader.read_clips(path, "train")
    names[path.name] = found["name"]
    shapes[path.name] = found["video"].shape[1:], found["audio"].shape[1:]
    # Each is a data set of its own, with the codecs of all.
    own, whole = (
      (p / "codecs" / "codecs.npz") for p in (path, tmp_path / "data")
    )
    assert own.read_bytes() == whole.read_bytes()
  assert names == {
    "data": ["wide0.mp4", "wide1.mp4", "wide2.mp4"],
    "9x24x16": ["sound.wav", "tall0.mp4", "tall1.mp4", "tall2.mp4"],
    "1x24x16": ["still.png"],
  }
  assert shapes["data"] == ((2, 2, 3, 6), (10, 6))
  assert shapes["9x24x16"] == ((3, 3, 2, 6), (15, 6))
  still = loader.read_clips(tmp_path / "data" / "1x24x16", "train")
  assert still["has_video"].all() and not still["has_audio"].any()
  lines = (tmp_path / "data" / "left_out.jsonl").read_text().splitlines()
  assert len(lines) == 2


def test_a_bucket_that_no_clip_fits_is_one_error(folder, tmp_path):
  settings = dataclasses.replace(
    SETTINGS, buckets=(*SETTINGS.buckets, (49, 16, 24))
  )
  with pytest.raises(ValueError, match="No clip goes to the bucket 49x16x24"):
    dataset.encode_dataset(folder, tmp_path / "data", settings)
  assert [x.name for x in tmp_path.iterdir()] == ["clips"]


def test_a_bucket_without_a_usable_clip_is_one_error(folder, tmp_path):
  for i in range(3):
    write(folder, f"tall{i}.mp4", 10, (48, 32), audio=False)
  with pytest.raises(
    ValueError, match=r"(?s)leave out 9x24x16.*no audio"
  ) as caught:
    dataset.encode_dataset(
      folder, tmp_path / "data", SETTINGS, codecs=clips.codecs()
    )
  assert len(str(caught.value).splitlines()) == 3
  assert not (tmp_path / "data").exists()


def test_one_shape_makes_the_files_that_it_made_before(folder, tmp_path):
  """Whatever the clips' sizes: neither buckets nor sub folders."""
  settings = dataclasses.replace(SETTINGS, buckets=(), frames=5, size=(16, 24))
  dataset.encode_dataset(folder, tmp_path / "data", settings)
  assert "buckets" not in records.read_metadata(tmp_path / "data")
  plan = json.loads((tmp_path / "data" / "plan.json").read_text())
  assert not {"buckets", "max_upscale"} & plan["encode"].keys()
  below = {x.name for x in (tmp_path / "data").iterdir() if x.is_dir()}
  assert below == {"shards", "codecs"}
