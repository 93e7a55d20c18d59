"""Rows of captions, and files that lose none of them in silence."""

import codecs
import json
import logging
import re

import pytest

from ccl_jax.data.encode import caption_files


def read(path):
  """(line, columns that are not empty) of each row."""
  return [
    (int(place.rpartition(":")[2]), {k: v for k, v in row.items() if v})
    for place, row in caption_files.read_rows(path)
  ]


def write(folder, text, name="captions.csv", encoding="utf-8"):
  path = folder / name
  path.write_bytes(text.encode(encoding))
  return path


ROWS = [
  (2, {"file": "a.mp4", "video": "A, b.", "speech": "Hi"}),
  (3, {"file": "b.mp4", "video": 'A 6" pipe.'}),
]


@pytest.mark.parametrize(
  "text",
  [
    'file,video,speech\na.mp4,"A, b.",Hi\nb.mp4,A 6" pipe.,\n',
    'file, video , speech\r\na.mp4, "A, b.", Hi\r\nb.mp4 ,"A 6"" pipe.",',
    'file;video;speech\na.mp4;A, b.;Hi\nb.mp4;A 6" pipe.;\n',
    'file\tvideo\tspeech\na.mp4\tA, b.\tHi\nb.mp4\tA 6" pipe.\t\n',
    '"file","video","speech"\n"a.mp4","A, b.","Hi"\n"b.mp4","A 6"" pipe.",""',
    'speech,video,file\nHi,"A, b.",a.mp4\n,A 6" pipe.,b.mp4\n',
    'file,video,speech,\na.mp4,"A, b.",Hi,\nb.mp4,A 6" pipe.,,\n,,,\n',
    'file_name,video,speech\na.mp4,"A, b.",Hi\nb.mp4,A 6" pipe.,\n\n',
  ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_as_programs_write_them(tmp_path, text, encoding):
  assert read(write(tmp_path, text, encoding=encoding)) == ROWS


def test_excel_names_its_delimiter_and_cells_have_line_feeds(tmp_path):
  path = write(
    tmp_path, 'sep=;\r\nfile;video\r\na.mp4;"A\r\nb."\r\nb.mp4;\u2028'
  )
  assert read(path) == [
    (3, {"file": "a.mp4", "video": "A\r\nb."}), (5, {"file": "b.mp4"})
  ]  # fmt: skip
  path = write(tmp_path, "file\tvideo\na.mp4\tA, b.\n", "captions.tsv")
  assert read(path) == [(2, {"file": "a.mp4", "video": "A, b."})]


def test_lines_of_json_end_with_line_feeds_only(tmp_path):
  rows = [{"file": "a", "video": "A\u2028b\u0085c"}, {"file": "b", "text": "B"}]
  lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
  path = write(tmp_path, lines, "captions.jsonl", "utf-8-sig")
  assert read(path) == [(1, rows[0]), (2, rows[1])]


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("{", "captions.jsonl:1: not JSON"),
    ("\n[1]", "captions.jsonl:2: expected an object"),
    ('{"file": "a", "video": ' + "[" * 100_000, ":1: .*nested too deeply"),
    ('{"video": "x"}', "expected a column 'file'"),
    ('{"file": "a.mp4", "video": 3}', "'video' is 3, expected a string"),
    ('{"file": "a", "split": 1e999}', "'split' is inf, expected a string"),
    ('{"file": "a", "video": ' + "9" * 5000 + "}", "captions.jsonl:1: "),
    ('{"file": "a", "sppech": "x"}', "'sppech'. Did you mean 'speech'.*Known"),
    ('{"file": "a", "Split": "x"}', "'Split'. Did you mean 'split'"),
    ('{"file": "a", "txet": "x"}', "Known columns: file, video, speech, audio"),
    ('{"file": "a", "video": "x", "video": "y"}', "duplicate key 'video'"),
    ('{"file": "a", "video ": "x", "video": 1}', "duplicate key 'video'"),
    (
      '{"file": "a", "end": ' + "9" * 400 + "}",
      "'end' is 9+, expected seconds",
    ),
    ('{"file": "a", "text": "x", "caption": "y"}', "are the same column"),
    ('{"file": "a", "file_name": "b"}', "are the same column"),
    ('{"file": "a", "text": "x", "speech": "y"}', "'text' is the whole prompt"),
    ('{"file": "a", "video": "\\ud800"}', "'video' has half a character"),
  ],
)
def test_a_bad_line_is_named(tmp_path, text, reason):
  with pytest.raises(ValueError, match=reason):
    caption_files.read_rows(write(tmp_path, text, "captions.jsonl"))


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    (
      "file,video,speech\na,A man, smiling,Hi\n",
      ":2: 4 cells, expected 3: fil",
    ),
    ("file,video,speech\n\na,A man\n", ":3: 2 cells, expected 3"),
    ('file,video\nb,B\na,"A\nb,B\n', ":3: unexpected end of data"),
    ('file,video\na,"A 6" pipe"\n', ":2: '\",\"|:2: ',' expected after"),
    ("file,video,video\na,A,B\n", ":1: duplicate column 'video'"),
    ("file,vidoe\na,A\n", ":2: Unknown column 'vidoe'. Did you mean 'video'"),
    ("file,video,\na,A,B\n", ":2: Unknown column ''"),
    ("file|video\na|A\n", ":2: Unknown column 'file|video'"),
    ("a.mp4,A man.\nb.mp4,B\n", ":2: Unknown column .*Known columns: file"),
  ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, text, reason):
  with pytest.raises(ValueError, match=f"captions.csv{reason}"):
    caption_files.read_rows(write(tmp_path, text))


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
@pytest.mark.parametrize(
  ("encoding", "reason"),
  [
    ("latin-1", "line 2 has the byte 0xe9, as in Latin-1"),
    ("cp1252", "line 2 has the byte 0xe9, as in Latin-1"),
    ("utf-16", "it is UTF-16"),
    ("utf-16-le", "it has bytes of zero, as in UTF-16"),
  ],
)
def test_another_encoding_is_an_error_that_names_it(
  tmp_path, name, encoding, reason
):
  text = "file,video\na.mp4,Un caf\u00e9.\n"
  if encoding == "utf-16-le":
    text = text.replace("\u00e9", "e")
  path = write(tmp_path, text, name, encoding)
  with pytest.raises(
    ValueError, match=rf"{path}' is not UTF-8: {reason}.*Save it as UTF-8"
  ):
    caption_files.read_rows(path)
  assert path.read_bytes()[:2] != codecs.BOM_UTF8[:2]


@pytest.mark.parametrize(
  "split",
  ["val/a", "../x", "..", ".", "/x", "a\\b", ".x", "-x", "val*", "a[1]", "a\nb",
   "a:b", "a\0b", "x" * 101, "\u00e9" * 51],
)  # fmt: skip
def test_a_split_that_is_no_file_name_is_an_error(tmp_path, split):
  text = json.dumps({"file": "a.mp4", "split": split})
  with pytest.raises(
    ValueError, match=r":1: the split .* is no plain file name"
  ):
    caption_files.read_rows(write(tmp_path, text, "captions.jsonl"))


@pytest.mark.parametrize(
  "split", ["train", "val-2", "v1.0", "_a", "1", "\u00e9"]
)
def test_a_plain_name_is_a_split(tmp_path, split):
  text = json.dumps({"file": "a.mp4", "split": f" {split} "})
  path = write(tmp_path, text, "captions.jsonl")
  assert read(path) == [(1, {"file": "a.mp4", "split": split})]


def test_columns_of_metadata_that_are_not_read_are_told(tmp_path, caplog):
  text = json.dumps({"file_name": "a.mp4", "text": "A.", "licence": "CC0"})
  path = write(tmp_path, text, "metadata.jsonl")
  with caplog.at_level(logging.WARNING):
    assert read(path) == [(1, {"file": "a.mp4", "text": "A."})]
  assert "Unknown column 'licence'" in caplog.text


def test_captions_must_exist_and_be_of_a_known_kind(tmp_path):
  with pytest.raises(ValueError, match="no such captions"):
    caption_files.read_rows(tmp_path / "absent.csv")
  with pytest.raises(ValueError, match="must be one of"):
    caption_files.read_rows(tmp_path / "captions.txt")


@pytest.mark.parametrize(
  ("start", "end", "reason"),
  [
    (-1, None, "'start' is -1, expected seconds"),
    ("-0.5", None, "'start' is '-0.5'"),
    (None, -2, "'end' is -2"),
    (float("nan"), None, "'start' is nan"),
    (0, float("inf"), "'end' is inf"),
    ("1:20", None, "'start' is '1:20'"),
    (True, None, "'start' is True"),
    ([1], None, "'start' is "),
    (2, 2, "ends at 2.0 s, expected after its start at 2.0"),
    (3, 2, "ends at 2.0 s"),
    (None, 0, "ends at 0.0 s"),
  ],
)
def test_times_that_cannot_be_are_one_error(tmp_path, start, end, reason):
  row = {"file": "a.mp4", "start": start, "end": end}
  path = write(tmp_path, json.dumps(row), "captions.jsonl")
  with pytest.raises(ValueError, match=re.escape(reason)) as caught:
    caption_files.read_rows(path)
  assert "captions.jsonl:1" in str(caught.value)


def test_times_are_numbers_or_cells(tmp_path):
  path = write(
    tmp_path, "file,start,end\na.mp4,1.5,\nb.mp4,,2\n", "captions.csv"
  )
  rows = [row for _, row in caption_files.read_rows(path)]
  assert [(x["start"], x["end"]) for x in rows] == [(1.5, ""), ("", 2.0)]
  # Columns of other programs' metadata may mean anything.
  path = write(tmp_path, "file_name,start\na.mp4,-7\n", "metadata.csv")
  ((_, row),) = caption_files.read_rows(path)
  assert row["start"] == ""
