"""Captions joined with the clips of a folder."""

import json

import pytest

from ccl_jax.data.encode import captions


def make_folder(path, *names):
  for name in names:
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).touch()


def test_prompt_puts_spoken_words_in_quotation_marks():
  assert captions.make_prompt("A man.", "Hi!", "Wind.") == 'A man. "Hi!" Wind.'
  assert captions.make_prompt("A man.", "", " Wind. ") == "A man. Wind."
  assert captions.make_prompt("", 'Say "no".') == "\"Say 'no'.\""
  assert captions.make_prompt() == ""


def test_clips_are_sorted_and_joined_with_captions(tmp_path):
  make_folder(tmp_path, "b.mp4", "a.wav", "sub/c.MOV", "notes.txt")
  rows = [
    {"file": "sub/c.MOV", "video": "Sea.", "split": "test"},
    {"file": "a.wav", "audio": "Wind."},
  ]
  text = "\n\n".join(json.dumps(row) for row in rows)
  (tmp_path / "captions.jsonl").write_text(text)
  found = captions.list_clips(tmp_path)
  assert [(s.name, s.caption, s.split) for s in found] == [
    ("a.wav", "Wind.", ""),
    ("b.mp4", "", ""),
    ("sub/c.MOV", "Sea.", "test"),
  ]
  assert all(s.path.is_file() for s in found)


def test_csv_says_the_same_as_jsonl(tmp_path):
  make_folder(tmp_path, "a.mp4")
  (tmp_path / "own.csv").write_text('file,video,speech\na.mp4,"A, b.",Hi\n')
  (clip_file,) = captions.list_clips(tmp_path, tmp_path / "own.csv")
  assert clip_file.caption == 'A, b. "Hi"'


def test_no_clips_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="No clips"):
    captions.list_clips(tmp_path)


def test_captions_that_name_missing_files_list_them(tmp_path):
  make_folder(tmp_path, "a.mp4")
  text = "\n".join(json.dumps({"file": f"{i}.mp4"}) for i in range(7))
  (tmp_path / "captions.jsonl").write_text(text)
  with pytest.raises(ValueError, match=r"7 files .* 0.mp4, .* and 2 more"):
    captions.list_clips(tmp_path)


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("{", "captions.jsonl:1: not JSON"),
    ('{"video": "x"}', "expected a column 'file'"),
    ('{"file": "a.mp4", "video": 3}', "'video' is 3, expected a string"),
    ('{"file": "a.mp4"}\n{"file": "a.mp4"}', "more than once: a.mp4"),
  ],
)
def test_bad_captions_are_one_error(tmp_path, text, reason):
  make_folder(tmp_path, "a.mp4")
  (tmp_path / "captions.jsonl").write_text(text)
  with pytest.raises(ValueError, match=reason):
    captions.list_clips(tmp_path)


def test_captions_must_exist_and_be_of_a_known_kind(tmp_path):
  make_folder(tmp_path, "a.mp4")
  with pytest.raises(ValueError, match="no such captions"):
    captions.list_clips(tmp_path, tmp_path / "absent.csv")
  with pytest.raises(ValueError, match="must be one of"):
    captions.list_clips(tmp_path, tmp_path / "captions.txt")
