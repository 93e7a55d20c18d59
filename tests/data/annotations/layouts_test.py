"""A row of each published layout, joined with clips that are there."""

import json

import pytest
from etils import epath

from ccl_jax.data.annotations.joining import join, write_rows
from ccl_jax.data.annotations.layouts import LAYOUTS, by_columns
from ccl_jax.data.encode.captions import list_clips

WAVCAPS = {
  "num_captions_per_audio": 1,
  "data": [
    {"title": "a", "id": "123", "caption": "A bell rings.", "duration": 4.0,
     "audio": "wav_path", "download_link": "x", "href": "y"},
    {"id": "Yabc.wav", "caption": "Wind.", "duration": 10.0},
    {"id": "7", "caption": "Bad.", "duration": 1.0},
  ],
}  # fmt: skip
CELEBV = {
  "meta_info": {
    "appearance_mapping": ["young", "wavy_hair", "hat"],
    "action_mapping": ["smile", "talk"],
  },
  "clips": {
    "k_0": {
      "ytb_id": "k", "duration": {"start_sec": 0.5, "end_sec": 4.0},
      "bbox": {"top": 0.0, "bottom": 0.6, "left": 0.1, "right": 0.5},
      "attributes": {"appearance": [1, 1, 0], "action": [0, 1]},
    }
  },
}  # fmt: skip
VERSE = {
  "video_prompt": "A man.", "audio_prompt": ["Wind.", "Rain."],
  "speech_prompt": {"speaker": "man", "text": "Hello!"},
}  # fmt: skip
# Data set -> files of annotations, files of clips, rows of captions.jsonl; the
# files of annotations are given as their folder if there are several.
CASES = {
  "vggsound": (
    {"vggsound.csv": '---g-f_I2yQ,1,people marching,test\n'
                     'a,30,"dog, barking",train\nb,5,x,train\n'},
    ["---g-f_I2yQ_000001.mp4", "train/a_30000_40000.mp4"],
    [{"file": "---g-f_I2yQ_000001.mp4", "audio": "people marching",
      "split": "test"},
     {"file": "train/a_30000_40000.mp4", "audio": "dog, barking",
      "split": "train"}],
  ),
  "audiocaps": (
    {"train.csv": "audiocap_id,youtube_id,start_time,caption\n1,a,30,Rain.\n",
     "val.csv": "audiocap_id,youtube_id,start_time,caption\n"
                "2,b,40,One.\n3,b,40,Two.\n4,c,1,Gone.\n",
     "test.csv": "file_name,caption_1,caption_2\nYd.wav,D.,E.\n"},
    ["Ya.wav", "val/b_40.wav", "Yd.wav"],
    [{"file": "Yd.wav", "audio": "D.", "split": "test"},
     {"file": "Ya.wav", "audio": "Rain.", "split": "train"},
     {"file": "val/b_40.wav", "audio": "One.", "split": "val"}],
  ),
  "wavcaps": (
    {"sb_final.json": json.dumps(WAVCAPS),
     "blacklist_exclude.json": json.dumps({"FreeSound": [7], "AudioSet": []})},
    ["SoundBible_flac/123.flac", "AudioSet_SL_flac/Yabc.flac", "7.flac"],
    [{"file": "SoundBible_flac/123.flac", "audio": "A bell rings."},
     {"file": "AudioSet_SL_flac/Yabc.flac", "audio": "Wind."}],
  ),
  "celebv": (
    {"celebvhq_info.json": json.dumps(CELEBV)}, ["processed/k_0.mp4"],
    [{"file": "processed/k_0.mp4",
      "video": "A person: young, wavy hair, talk."}],
  ),
  "avspeech": (
    {"avspeech_train.csv": "a,1.5,4,0.5,0.5\nb,90.0,93.2,0.1,0.2\n",
     "avspeech_test.csv": "c,2,5,0.5,0.5\n"},
    ["a/a_1.500_4.000.mp4", "b/b_90.0_93.2.mp4"],
    [{"file": "a/a_1.500_4.000.mp4", "split": "train"},
     {"file": "b/b_90.0_93.2.mp4", "split": "train"}],
  ),
  "landscape": (
    {"landscape.csv": "ytid,start_time,class,set\n"
                      "MJ9-HmGWw1k,180,wind noise,train\n"},
    ["landscape/train/MJ9-HmGWw1k_000180.mp4"],
    [{"file": "landscape/train/MJ9-HmGWw1k_000180.mp4", "audio": "wind noise",
      "split": "train"}],
  ),
  "aist": (
    {"crossmodal_train.txt": "gWA_sFM_cAll_d27_mWA2_ch21\ngBR_x_c01_y\n",
     "ignore_list.txt": "gBR_x_c01_y\n"},
    ["gWA_sFM_c02_d27_mWA2_ch21.mp4", "gBR_x_c01_y.mp4"],
    [{"file": "gWA_sFM_c02_d27_mWA2_ch21.mp4", "video": "A dancer, waacking.",
      "split": "train"}],
  ),
  "versebench": (
    {"set1/a.json": json.dumps(VERSE),
     "set2/a.json": json.dumps({"video_prompt": "B.", "audio_prompt": []})},
    ["set2/a.mp4", "set2/a.wav"],
    [{"file": "set2/a.mp4", "video": "B."}],
  ),
  "javisbench": (
    {"JavisBench.csv": 'text,path,cat0_ind\nOne.,x/real.mp4,"3,5"\nTwo.,,1\n'},
    ["sample_0001.mp4", "x/real.mp4"],
    [{"file": "x/real.mp4", "text": "One."},
     {"file": "sample_0001.mp4", "text": "Two."}],
  ),
  "mova": (
    {"metadata.json": json.dumps(
      [{"video_path": "videos/a.mp4", "caption": "A."},
       {"video_path": "/data/videos/b.mp4", "caption": "B."}])},
    ["a.mp4", "b.mp4"],
    [{"file": "a.mp4", "text": "A."}, {"file": "b.mp4", "text": "B."}],
  ),
  "video2dataset": (
    {"00000/000.json": json.dumps({"caption": "No.", "status": "success"}),
     "00000/000.txt": "A cat\njumps.",
     "00000/001.json": json.dumps({"caption": "B.", "status": "failed"}),
     "00001/000.json": json.dumps({"caption": "C.", "url": "u", "key": "0"}),
     "00000_stats.json": "{}"},
    ["00000/000.mp4", "00000/001.mp4", "00001/000.mp4"],
    [{"file": "00000/000.mp4", "text": "A cat jumps."},
     {"file": "00001/000.mp4", "text": "C."}],
  ),
}  # fmt: skip


def write(folder, files):
  for name, text in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
  return folder


def touch(folder, names):
  return write(folder, dict.fromkeys(names, ""))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_becomes_captions(tmp_path, name):
  files, clips, expected = CASES[name]
  notes = write(tmp_path / "notes", files)
  folder = touch(tmp_path / "clips", [*clips, "other.mp4"])
  given = notes if len(files) > 1 else notes / next(iter(files))
  joined = join(LAYOUTS[name](epath.Path(given)), folder)
  assert joined.rows == expected
  assert len(joined.rows) == joined.total - len(joined.absent)
  # What is written is what encoding reads.
  write_rows(folder / "captions.jsonl", joined.rows)
  listed = {x.name: x for x in list_clips(folder).clips}
  for row in expected:
    assert listed[row["file"]].split == row.get("split", "")
    assert row.get("audio", "") in listed[row["file"]].caption


def test_the_number_of_clips_that_are_there_is_said(tmp_path):
  files, clips, _ = CASES["audiocaps"]
  notes = write(tmp_path / "notes", files)
  folder = touch(tmp_path / "clips", clips)
  text = str(join(LAYOUTS["audiocaps"](epath.Path(notes)), folder))
  assert text == (
    "3 of 4 present. 1 further captions of the same clips unused. Not there,"
    " for example: Yc."
  )


def test_speech_is_spoken(tmp_path):
  write(tmp_path / "set1", {"a.json": json.dumps(VERSE)})
  touch(tmp_path / "set1", ["a.mp4"])
  joined = join(LAYOUTS["versebench"](epath.Path(tmp_path)), tmp_path / "set1")
  write_rows(tmp_path / "set1" / "captions.jsonl", joined.rows)
  (clip,) = list_clips(tmp_path / "set1").clips
  assert clip.caption == 'A man. "Hello!" Wind. Rain.'


ROWS = [
  {"name": "sub/a.mp4", "what": "A.", "from": 0.5, "to": 2.0, "n": 1},
  {"name": "sub/a.mp4", "what": "B.", "from": 2.0, "to": 3.0, "n": 2},
  {"name": "gone.mp4", "what": "C.", "from": 0.0, "to": 1.0, "n": 3},
]


def write_table(path):
  if path.suffix == ".csv":
    lines = [",".join(ROWS[0]), *(",".join(map(str, r.values())) for r in ROWS)]
    path.write_text("\n".join(lines))
  elif path.suffix == ".tsv":
    lines = [
      "\t".join(ROWS[0]),
      *("\t".join(map(str, r.values())) for r in ROWS),
    ]
    path.write_text("\n".join(lines))
  elif path.suffix == ".jsonl":
    path.write_text("\n".join(map(json.dumps, ROWS)))
  elif path.suffix == ".json":
    path.write_text(json.dumps(ROWS))
  else:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.Table.from_pylist([row | {"bytes": b"12"} for row in ROWS])
    parquet.write_table(table, path)
  return path


COLUMNS = {"file": "name", "text": "what", "start": "from", "end": "to"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_any_table_is_read_by_its_columns(tmp_path, suffix):
  table = write_table(tmp_path / f"table.{suffix}")
  folder = touch(tmp_path / "clips", ["sub/a.mp4"])
  joined = join(by_columns(table, COLUMNS), folder)
  write_rows(folder / "captions.jsonl", joined.rows)
  found = [(x.caption, x.start, x.end) for x in list_clips(folder).clips]
  assert found == [("A.", 0.5, 2.0), ("B.", 2.0, 3.0)]
  assert joined.absent == ["gone.mp4"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_a_table_without_a_column_is_one_error(tmp_path, suffix):
  table = write_table(tmp_path / f"table.{suffix}")
  folder = touch(tmp_path / "clips", ["a.mp4"])
  with pytest.raises(ValueError, match=r"row 1: no column 'nam'.*mean 'name'"):
    join(by_columns(table, {"file": "nam"}), folder)


@pytest.mark.parametrize(
  ("name", "text", "reason"),
  [
    ("a.csv", "id,text\n1\n", "a.csv:2: 1 cells, expected 2"),
    ("a.csv", 'id\n"open\n', "a.csv:2: unexpected end"),
    ("a.jsonl", '{"id": "a"}\n[1]\n', "a.jsonl:2: expected an object"),
    ("a.json", "{", "not JSON"),
    ("a.json", "{}", "expected a list of objects"),
    ("a.parquet", "PAR1", "not Parquet"),
    ("a.xml", "", "must be one of .csv"),
    ("a.csv", None, "no such file of annotations"),
  ],
)
def test_a_table_that_cannot_be_read_is_one_error(tmp_path, name, text, reason):
  if text is not None:
    (tmp_path / name).write_text(text)
  folder = touch(tmp_path / "clips", ["a.mp4"])
  with pytest.raises(ValueError) as caught:
    join(by_columns(tmp_path / name, {"file": "id", "text": "id"}), folder)
  assert reason in str(caught.value)


@pytest.mark.parametrize(
  ("name", "file", "text", "reason"),
  [
    ("vggsound", "a.csv", "a,x,b,train\n", "'x' is no number of seconds"),
    ("vggsound", "a.csv", "a,1,b\n", "3 cells, expected 4"),
    ("vggsound", "a.json", "[]", "must be one of .csv .tsv"),
    ("vggsound", "a.csv", "a,1,b,../x\n", "no plain file name"),
    ("audiocaps", "a.csv", "x,caption\n1,2\n", "no column 'youtube_id'"),
    ("wavcaps", "a.json", "[]", "expected an object"),
    ("wavcaps", "a.json", "{}", "no column 'data'. It has: none"),
    ("celebv", "a.json", "[]", "expected an object"),
    ("versebench", "a.json", "{}", "no column 'video_prompt'"),
    ("mova", "a.json", '[{"video_path": "a.mp4", "caption": 3}]', "is 3"),
    ("landscape", "a.csv", "ytid\na\n", "no column 'start_time'"),
  ],
)
def test_annotations_of_another_layout_are_one_error(
  tmp_path, name, file, text, reason
):
  (tmp_path / file).write_text(text)
  folder = touch(tmp_path / "clips", ["a.mp4", "a_1.mp4"])
  with pytest.raises(ValueError) as caught:
    join(LAYOUTS[name](epath.Path(tmp_path / file)), folder)
  assert reason in str(caught.value)


def test_folders_without_annotations_or_clips_are_errors(tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match=r"no \.csv file in this folder"):
    list(LAYOUTS["audiocaps"](epath.Path(tmp_path / "empty")))
  with pytest.raises(ValueError, match="no such file or folder"):
    list(LAYOUTS["audiocaps"](epath.Path(tmp_path / "nothing")))
  with pytest.raises(ValueError, match="No clips in"):
    join([], tmp_path / "empty")
