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
    {"fsd_final.json": json.dumps(WAVCAPS),
     "blacklist_exclude.json": json.dumps({"FreeSound": [7], "AudioSet": []})},
    ["FreeSound_flac/123.flac", "AudioSet_SL_flac/Yabc.flac", "7.flac"],
    [{"file": "FreeSound_flac/123.flac", "audio": "A bell rings."},
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


H = "audiocap_id,youtube_id,start_time,caption\n"
WAVCAPS_PARTS = {
  "fsd_final.json": [{"id": 12, "caption": "F."}, {"id": 7, "caption": "No."}],
  "sb_final.json": [{"id": "12", "caption": "S."}, {"id": "7", "caption": "Y"}],
}
# As people's tools leave the files: data set, annotations, clips, rows.
ODD = {
  "a table of Excel": (
    "vggsound", {"v.csv": '\ufeff-a,30.0,"say ""hi"",\nyou",test\r\n'},
    ["-a_000030.mp4"],
    [{"file": "-a_000030.mp4", "audio": 'say "hi",\nyou', "split": "test"}],
  ),
  "seconds of pandas": (
    "audiocaps", {"train.csv": f"{H}1,-a,30.0,Rain.\n2,-a,40.0,Wind.\n"},
    ["-a_40.wav", "-a_30.wav"],
    [{"file": "-a_30.wav", "audio": "Rain.", "split": "train"},
     {"file": "-a_40.wav", "audio": "Wind.", "split": "train"}],
  ),
  "seconds in names": (
    "avspeech", {"train.csv": "a,30,33.5,0,0\nb,90.000000,93.2,0,0\n"},
    ["a_30.0_33.5.mp4", "b_90_93.2.mp4"],
    [{"file": "a_30.0_33.5.mp4", "split": "train"},
     {"file": "b_90_93.2.mp4", "split": "train"}],
  ),
  "one number in two parts": (
    "wavcaps",
    {k: json.dumps({"data": x}) for k, x in WAVCAPS_PARTS.items()}
    | {"blacklist_x.json": json.dumps({"FreeSound": [7]})},
    ["SoundBible_flac/12.flac", "FreeSound_flac/12.flac",
     "SoundBible_flac/7.flac"],
    [{"file": "FreeSound_flac/12.flac", "audio": "F."},
     {"file": "SoundBible_flac/12.flac", "audio": "S."},
     {"file": "SoundBible_flac/7.flac", "audio": "Y"}],
  ),
  "a list of Windows": (
    "aist", {"train.txt": "\ufeffgWA_a_c01\r\ngBR_b_c01\r\n",
             "ignore_list.txt": "\ufeffgBR_b_c01\r\n"},
    ["gWA_a_c01.mp4", "gBR_b_c01.mp4"],
    [{"file": "gWA_a_c01.mp4", "video": "A dancer, waacking.",
      "split": "train"}],
  ),
  "nulls": (
    "mova", {"m.json": json.dumps([{"video_path": None, "caption": "No."},
                                   {"video_path": "a.mp4", "caption": None}])},
    ["a.mp4"], [{"file": "a.mp4"}],
  ),
  "another form of unicode": (
    "mova", {"m.json": json.dumps([{"video_path": "caf\u00e9",
                                    "caption": "A."}])},
    ["x/cafe\u0301.mp4"], [{"file": "x/cafe\u0301.mp4", "text": "A."}],
  ),
  "no attributes": (
    "celebv", {"c.json": '{"meta_info": null, "clips": {"k": {}, "j": null}}'},
    ["k.mp4"], [{"file": "k.mp4"}],
  ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_odd_rows_lose_nothing(tmp_path, kind):
  name, files, clips, expected = ODD[kind]
  notes = write(tmp_path / "notes", files)
  folder = touch(tmp_path / "clips", clips)
  given = notes if len(files) > 1 else notes / next(iter(files))
  joined = join(LAYOUTS[name](epath.Path(given)), folder)
  assert joined.rows == expected


def test_one_segment_written_in_two_ways_is_one(tmp_path):
  table = tmp_path / "t.csv"
  table.write_text("name,what,from,to\na,A.,1,2\na,B.,1.0,2.00\na,C.,2,3\n")
  joined = join(by_columns(table, COLUMNS), touch(tmp_path / "c", ["a.mp4"]))
  assert [row["text"] for row in joined.rows] == ["A.", "C."]
  assert joined.repeated == 1


def test_names_of_different_clips_that_fit_one_are_an_error(tmp_path):
  table = tmp_path / "t.csv"
  table.write_text("f\nx/a.mp4\n./x/a.wav\ny/a.mp4\n")
  folder = touch(tmp_path / "clips", ["a.mp4"])
  with pytest.raises(ValueError, match=r"x/a.mp4 and of y/a.mp4 both fit"):
    join(by_columns(table, {"file": "f"}), folder)
  folder = touch(tmp_path / "clips", ["y/a.mp4", "x/a.mp4"])
  joined = join(by_columns(table, {"file": "f"}), folder)
  assert [row["file"] for row in joined.rows] == ["x/a.mp4", "y/a.mp4"]


@pytest.mark.parametrize(
  ("name", "text", "reason"),
  [
    ("a.csv", "id,text\n1\n", "a.csv:2: 1 cells, expected 2"),
    ("a.csv", 'id\n"open\n', "a.csv:2: unexpected end"),
    ("a.csv", "id,id\n1,2\n", "duplicate column 'id'"),
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
    ("vggsound", "a.csv", "b,1,b,c\na,1e400,b,c\n", "row 2: '1e400' is no"),
    ("vggsound", "a.csv", "a,nan,b,train\n", "'nan' is no number of seconds"),
    ("avspeech", "a.csv", "a,-1,2,0,0\n", "'-1' is no number of seconds"),
    ("vggsound", "a.json", "[]", "must be one of .csv .tsv"),
    ("vggsound", "a.csv", "a,1,b,../x\n", "no plain file name"),
    ("audiocaps", "a.csv", "x,caption\n1,2\n", "no column 'youtube_id'"),
    ("wavcaps", "a.json", "[]", "expected an object"),
    ("wavcaps", "a.json", "{}", "no column 'data'. It has: none"),
    ("wavcaps", "a.json", '{"data": {}}', "expected a list, [...]"),
    ("wavcaps", "a.json", '{"data": [3]}', "clip 1: no column 'id'"),
    (
      "wavcaps",
      "blacklist.json",
      '{"a": 3}',
      "blacklist.json is '3', expected a list",
    ),
    ("celebv", "a.json", "[]", "expected an object"),
    ("celebv", "a.json", '{"clips": [1]}', "'clips' is '[1]', expected an"),
    (
      "celebv",
      "a.json",
      '{"clips": {"k": {"attributes": {"action": [1]}}}}',
      "'k': 1 values of 'action', expected 0",
    ),
    (
      "versebench",
      "a.json",
      '{"video_prompt": "", "audio_prompt": [3]}',
      "'audio_prompt' is '3', expected a string",
    ),
    (
      "versebench",
      "a.json",
      '{"video_prompt": "", "audio_prompt": "", "speech_prompt": "x"}',
      "expected an object",
    ),
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
