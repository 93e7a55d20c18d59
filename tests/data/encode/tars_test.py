"""Tars of clips, as webdataset and video2dataset write them."""

import io
import json
import tarfile

import numpy as np
import pytest
from etils import epath

from ccl_jax.data import loader, media
from ccl_jax.data.annotations.joining import join
from ccl_jax.data.annotations.layouts import video2dataset
from ccl_jax.data.encode import captions, clip_files, dataset
from ccl_jax.data.encode.settings import EncodeSettings
from ccl_jax.data.scores import table
from tests.data import clips

SETTINGS = EncodeSettings(
  frames=5, size=clips.SIZE, video_channels=6, audio_channels=6, text_length=6,
  text_width=8, validation_fraction=0.0, num_workers=0,
)  # fmt: skip
NUM = 4


@pytest.fixture
def folder(tmp_path):
  """Two tars of two clips each with their texts, and the clips unpacked."""
  (tmp_path / "plain").mkdir()
  clips.write_clips(tmp_path / "plain", NUM)
  (tmp_path / "tars").mkdir()
  for shard in range(2):
    with tarfile.open(tmp_path / "tars" / f"{shard:05d}.tar", "w") as tar:
      for i in (2 * shard, 2 * shard + 1):
        about = {"key": f"{i}", "caption": f"Disc {i}.", "status": "success"}
        parts = {
          "mp4": (tmp_path / "plain" / f"{i}.mp4").read_bytes(),
          "txt": f"Disc {i}.\n".encode(),
          "json": json.dumps(about).encode(),
        }
        for suffix, data in parts.items():
          info = tarfile.TarInfo(f"{i}.{suffix}")
          info.size = len(data)
          tar.addfile(info, io.BytesIO(data))
  return tmp_path / "tars"


def test_clips_in_tars_are_those_of_a_folder(folder, tmp_path):
  names = [f"0000{i // 2}.tar/{i}.mp4" for i in range(NUM)]
  listing = captions.list_clips(folder)
  assert [x.name for x in listing.clips] == names
  assert [x.caption for x in listing.clips] == [
    f"Disc {i}." for i in range(NUM)
  ]
  assert dict(listing.not_clips) == {".json": 4}
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  dataset.encode_dataset(tmp_path / "plain", tmp_path / "other", SETTINGS)
  assert summary.encoded == {"train": NUM} and not summary.left_out
  found, expected = (
    loader.read_clips(tmp_path / x, "train") for x in ("data", "other")
  )
  assert found["name"] == names
  for stream in ("video", "audio"):
    np.testing.assert_array_equal(found[stream], expected[stream])
  assert sorted(x.name for x in folder.iterdir()) == ["00000.tar", "00001.tar"]


def test_every_command_that_takes_clips_takes_tars(folder, tmp_path):
  """Scores, annotations and windows of clips in tars."""
  rows = table.score_folder(folder, tmp_path / "scores.jsonl", num_workers=0)
  assert len(rows) == NUM and not any(row["error"] for row in rows.values())
  joined = join(video2dataset(epath.Path(folder)), folder)
  assert [row["file"] for row in joined.rows] == sorted(rows)
  assert joined.rows[2]["text"] == "Disc 2." and not joined.absent
  (member, *_) = clip_files.list_clip_files(folder)
  whole = media.read_clip(member.path)
  part = media.read_clip(member.path, start=0.08, frames=2)
  np.testing.assert_array_equal(part.video, whole.video[2:4])


def test_captions_of_a_file_beside_the_tars_come_first(folder):
  row = {"file": "00001.tar/3.mp4", "text": "Another."}
  (folder / "captions.jsonl").write_text(json.dumps(row))
  found = {x.name: x.caption for x in captions.list_clips(folder).clips}
  assert found["00001.tar/3.mp4"] == "Another."
  assert found["00001.tar/2.mp4"] == "Disc 2."


def test_a_tar_that_is_cut_short_costs_what_is_missing(folder, tmp_path):
  path = folder / "00001.tar"
  path.write_bytes(path.read_bytes()[: -20 * 512])
  data = path.read_bytes()
  start = data.rindex(b"3.mp4") + 512
  path.write_bytes(data[: start + 700])
  (folder / "bad.tar").write_text("no tar")
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  assert summary.encoded == {"train": 3}
  assert set(summary.left_out) == {"00001.tar", "bad.tar"}
  reason = summary.left_out["00001.tar"]
  assert "cut short" in reason
  assert "3 files of it are whole, up to 2.json" in reason
  assert "no tar" in summary.left_out["bad.tar"]


def test_links_are_clips_and_what_leads_out_has_a_reason(folder, tmp_path):
  with tarfile.open(folder / "00001.tar", "a") as tar:
    for name, kind, target in (
      ("hard.mp4", tarfile.LNKTYPE, "2.mp4"),
      ("hard.txt", tarfile.LNKTYPE, "2.txt"),
      ("soft.mp4", tarfile.SYMTYPE, "3.mp4"),
      ("soft.txt", tarfile.SYMTYPE, "3.txt"),
      ("lost.mp4", tarfile.SYMTYPE, "none.mp4"),
      ("../out.mp4", tarfile.REGTYPE, ""),
      ("/root.mp4", tarfile.REGTYPE, ""),
    ):
      info = tarfile.TarInfo(name)
      info.type, info.linkname = kind, target
      tar.addfile(info)
  summary = dataset.encode_dataset(folder, tmp_path / "data", SETTINGS)
  assert summary.encoded == {"train": NUM + 2}
  lines = (tmp_path / "data" / "left_out.jsonl").read_text().splitlines()
  assert [json.loads(line)["file"] for line in lines] == [
    "00001.tar/../out.mp4", "00001.tar//root.mp4", "00001.tar/lost.mp4",
  ]  # fmt: skip


def test_a_list_of_files_in_a_tar_is_not_followed(folder, tmp_path):
  with tarfile.open(folder / "00002.tar", "w") as tar:
    secret = tmp_path / "plain" / "0.mp4"
    text = f"ffconcat version 1.0\nfile {secret}\n".encode()
    info = tarfile.TarInfo("x.mp4")
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text))
  (found,) = [x for x in captions.list_clips(folder).clips if "x.mp4" in x.name]
  with pytest.raises(
    media.ClipError, match=r"x\.mp4: is a list of other files"
  ):
    media.read_clip(found.path)
