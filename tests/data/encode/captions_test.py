"""Captions joined with the clips of a folder."""

import json
import os
import unicodedata

import pytest

from ccl_jax.data.encode import captions, clip_files
from ccl_jax.data.encode.captions import make_prompt


def make_folder(path, *names):
  for name in names:
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).touch()


def write_rows(path, *rows):
  path.write_text("\n\n".join(json.dumps(row) for row in rows))


def captions_of(folder, file=None):
  found = captions.list_clips(folder, file).clips
  return {clip.name: clip.caption for clip in found if clip.caption}


def test_prompt_puts_spoken_words_in_quotation_marks():
  assert make_prompt("A man.", "Hi!", "Wind.") == 'A man. "Hi!" Wind.'
  assert make_prompt("A man.", "", " Wind. ") == "A man. Wind."
  assert make_prompt("", 'Say "no".') == "\"Say 'no'.\""
  assert make_prompt() == ""


@pytest.mark.parametrize(
  "marks", ['""', "“”", "„“", "«»", "»«", "“”“”", '"', "“"]
)
@pytest.mark.parametrize(
  "speech", ["Hello", "Exit 6", 'A 4" gap', "He “said” so"]
)
def test_just_the_speech_is_spoken_whatever_the_marks(marks, speech):
  described = f'A 6" pipe, {"STOP".join(marks)} 7'
  spoken = speech.replace('4"', "4″").replace("“", "'").replace("”", "'")
  prompt = make_prompt(described, speech, described)
  assert prompt.split('"')[1::2] == [spoken]


def test_clips_are_sorted_and_joined_with_captions(tmp_path):
  make_folder(tmp_path, "b.mp4", "a.wav", "sub/c.MOV", "notes.txt", "x.JPG")
  write_rows(
    tmp_path / "captions.jsonl",
    {"file": "sub/c.MOV", "video": "Sea.", "split": "test"},
    {"file": "a.wav", "audio": "Wind."},
  )
  found, not_clips, _ = captions.list_clips(tmp_path)
  assert [(s.name, s.caption, s.split, s.problem) for s in found] == [
    ("a.wav", "Wind.", "", ""),
    ("b.mp4", "", "", ""),
    ("sub/c.MOV", "Sea.", "test", ""),
  ]
  assert all(s.path.is_file() for s in found)
  assert not_clips == {".txt": 1, ".jpg": 1}
  assert clip_files.describe_counts(not_clips) == "1 .jpg, 1 .txt"


@pytest.mark.parametrize("suffix", captions.SUFFIXES)
def test_each_usual_suffix_is_a_clip(tmp_path, suffix):
  make_folder(tmp_path, f"a{suffix.upper()}")
  assert len(captions.list_clips(tmp_path).clips) == 1


@pytest.mark.parametrize(
  "written",
  ["./sub/a.mp4", "sub//a.mp4", "x/../sub/a.mp4", "sub\\a.mp4", "{0}/sub/a.mp4",
   " sub/a.mp4 "],
)  # fmt: skip
def test_a_name_may_be_written_in_several_ways(tmp_path, monkeypatch, written):
  make_folder(tmp_path / "clips", "sub/a.mp4")
  monkeypatch.chdir(tmp_path)
  row = {"file": written.format(tmp_path / "clips"), "video": "A."}
  write_rows(tmp_path / "clips" / "captions.jsonl", row)
  assert captions_of("clips") == {"sub/a.mp4": "A."}
  os.symlink("clips", "link")
  row = {"file": written.format(tmp_path / "link"), "video": "A."}
  write_rows(tmp_path / "clips" / "captions.jsonl", row)
  assert captions_of("link") == {"sub/a.mp4": "A."}


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_file", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_the_same(tmp_path, on_disk, in_file):
  name = unicodedata.normalize(on_disk, "café/é.mp4")
  make_folder(tmp_path, name)
  file = unicodedata.normalize(in_file, "café/é.mp4")
  write_rows(tmp_path / "captions.jsonl", {"file": file, "video": "A."})
  assert captions_of(tmp_path) == {name: "A."}


def test_exactly_equal_names_come_first(tmp_path):
  names = [unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD")]
  make_folder(tmp_path, *names)
  rows = [{"file": name, "video": f"{i}."} for i, name in enumerate(names)]
  write_rows(tmp_path / "captions.jsonl", *rows)
  assert captions_of(tmp_path) == {names[0]: "0.", names[1]: "1."}


def test_text_beside_a_clip_is_its_caption_if_it_has_no_other(tmp_path):
  make_folder(tmp_path, "a.mp4", "sub/b.mp4", "c.mp4", "d.mp4", "e.mp4")
  (tmp_path / "a.txt").write_text('\ufeffA man\r\nsays "hi".\n')
  (tmp_path / "sub" / "b.TXT").write_text("B.")
  (tmp_path / "b.txt").write_text("Beside nothing.")
  (tmp_path / "c.txt").write_text("Not this.")
  (tmp_path / "d.txt").write_text("D.")
  (tmp_path / "e.txt").write_text(" \n")
  write_rows(
    tmp_path / "captions.jsonl",
    {"file": "c.mp4", "video": "C."},
    {"file": "d.mp4", "split": "test"},
  )
  found, not_clips, _ = captions.list_clips(tmp_path)
  assert {clip.name: clip.caption for clip in found} == {
    "a.mp4": 'A man says "hi".', "c.mp4": "C.", "d.mp4": "D.", "e.mp4": "",
    "sub/b.mp4": "B.",
  }  # fmt: skip
  assert not_clips == {".txt": 2}  # of c.mp4, and beside nothing
  (tmp_path / "a.txt").write_bytes(b"caf\xe9")
  with pytest.raises(ValueError, match=r"a\.txt' is not UTF-8"):
    captions.list_clips(tmp_path)


def test_captions_of_subfolders_name_their_own_files(tmp_path):
  """As the data sets of Hugging Face have them."""
  make_folder(tmp_path, "train/a.mp4", "test/a.mp4", "b.mp4")
  write_rows(
    tmp_path / "train" / "metadata.jsonl", {"file_name": "a.mp4", "text": "A."}
  )
  (tmp_path / "test" / "metadata.csv").write_text("file_name,text\na.mp4,B.\n")
  write_rows(tmp_path / "captions.jsonl", {"file": "b.mp4", "caption": "C."})
  assert captions_of(tmp_path) == {
    "train/a.mp4": "A.", "test/a.mp4": "B.", "b.mp4": "C."
  }  # fmt: skip
  own = tmp_path / "own.csv"
  own.write_text("file,video\ntrain/a.mp4,Only this.\n")
  assert captions_of(tmp_path, own) == {"train/a.mp4": "Only this."}


def test_one_of_several_files_of_captions_is_not_chosen(tmp_path):
  make_folder(tmp_path, "a.mp4", "captions.csv")
  write_rows(tmp_path / "metadata.jsonl", {"file_name": "a.mp4"})
  with pytest.raises(ValueError, match=r"captions.csv and metadata.jsonl.*--c"):
    captions.list_clips(tmp_path)


def test_the_folder_with_several_files_of_captions_is_named(tmp_path):
  names = "a/captions.csv", "b/captions.csv", "b/metadata.csv"
  make_folder(tmp_path, "a/a.mp4", "b/b.mp4", *names)
  with pytest.raises(ValueError, match=r"/b has captions.csv and metadata.csv"):
    captions.list_clips(tmp_path)


def test_captions_of_another_kind_are_told(tmp_path, caplog):
  make_folder(tmp_path, "a.mp4", "captions.json")
  captions.list_clips(tmp_path)
  assert "captions.json is not read. Captions must be one of" in caplog.text
  caplog.clear()
  write_rows(tmp_path / "captions.jsonl", {"file": "a.mp4", "video": "A."})
  captions.list_clips(tmp_path)
  assert not caplog.text


def test_no_clips_is_an_error_that_says_what_is_there(tmp_path):
  with pytest.raises(ValueError, match=r"No clips in .* no files"):
    captions.list_clips(tmp_path)
  make_folder(tmp_path, "a.jpg", "b.jpg", "c")
  with pytest.raises(ValueError, match=r"2 \.jpg, 1 without suffix, expected"):
    captions.list_clips(tmp_path)


def test_captions_that_name_missing_files_list_them(tmp_path):
  make_folder(tmp_path, "a.mp4")
  rows = [{"file": f"{i}.mp4"} for i in range(7)]
  write_rows(tmp_path / "captions.jsonl", *rows)
  with pytest.raises(ValueError, match=r"7 files .* 0.mp4, .* and 2 more"):
    captions.list_clips(tmp_path)


@pytest.mark.parametrize(
  ("name", "reason"),
  [
    ("A.MP4", r"not in .*: A\.MP4\. Did you mean a\.mp4\?"),
    ("/other/a.mp4", "not in .*: /other/a.mp4"),
    ("../a.mp4", r"not in .*: \.\./a\.mp4"),
    ("b.pdf", r"that are no clips \(.*\): b\.pdf"),
  ],
)
def test_a_name_of_no_clip_says_what_it_is(tmp_path, name, reason):
  make_folder(tmp_path, "a.mp4", "b.pdf")
  write_rows(tmp_path / "captions.jsonl", {"file": name})
  with pytest.raises(ValueError, match=reason):
    captions.list_clips(tmp_path)


def test_two_rows_of_a_file_are_an_error_with_both_places(tmp_path):
  make_folder(tmp_path, "a.mp4")
  path = tmp_path / "captions.jsonl"
  path.write_text('{"file": "a.mp4"}\n{"file": "./a.mp4"}')
  reason = rf"{path}:2 .* more than once: a\.mp4, before at {path}:1"
  with pytest.raises(ValueError, match=reason):
    captions.list_clips(tmp_path)


@pytest.mark.parametrize(
  ("rows", "reason"),
  [
    ([{}, {}], "more than once: a.mp4, before at"),
    ([{"start": 1}, {}], "more than once"),
    ([{"start": 0, "end": 2}, {"start": 1.5, "end": 3}], "from 1.5 s overlaps"),
    ([{"start": 2}, {"start": 1, "end": 2.5}], "from 2.0 s overlaps that"),
    ([{"end": 3}, {"end": 2}], "from 0 s overlaps that from 0 s to"),
    ([{"start": 1}, {"start": 1}], "from 1.0 s overlaps that"),
  ],
)
def test_segments_that_overlap_are_one_error(tmp_path, rows, reason):
  make_folder(tmp_path, "a.mp4")
  write_rows(
    tmp_path / "captions.jsonl", *({"file": "a.mp4"} | row for row in rows)
  )
  with pytest.raises(ValueError, match=reason) as caught:
    captions.list_clips(tmp_path)
  assert "captions.jsonl:" in str(caught.value)


def test_segments_that_meet_are_clips_in_order_of_time(tmp_path):
  make_folder(tmp_path, "a.mp4", "b.mp4")
  write_rows(
    tmp_path / "captions.jsonl",
    {"file": "a.mp4", "start": 2.5, "text": "Last."},
    {"file": "a.mp4", "end": 1, "text": "First."},
    {"file": "./a.mp4", "start": 1, "end": 2.5},
  )
  found = captions.list_clips(tmp_path).clips
  assert [(x.name, x.start, x.end, x.caption) for x in found] == [
    ("a.mp4", 0.0, 1.0, "First."),
    ("a.mp4", 1.0, 2.5, ""),
    ("a.mp4", 2.5, None, "Last."),
    ("b.mp4", 0.0, None, ""),
  ]


def test_captions_of_absent_files_are_counted_or_with_strict_an_error(tmp_path):
  make_folder(tmp_path, "a.mp4")
  rows = [{"file": f"{x}.mp4", "text": "A."} for x in ("a", "A", "z")]
  write_rows(tmp_path / "captions.jsonl", *rows)
  found = captions.list_clips(tmp_path)
  assert found.missing == ["A.mp4", "z.mp4"]
  assert [x.caption for x in found.clips] == ["A."]
  with pytest.raises(ValueError, match="name 2 files that are not in"):
    captions.list_clips(tmp_path, strict=True)
  # Of another folder altogether.
  write_rows(tmp_path / "captions.jsonl", *rows[1:])
  with pytest.raises(ValueError, match=r"Did you mean a\.mp4"):
    captions.list_clips(tmp_path)


@pytest.mark.parametrize("base", ["", "sub/"])
@pytest.mark.parametrize("name", ["back\\slash.mp4", " a.mp4", "a.mp4 .mp4"])
def test_odd_names_are_taken_as_they_are(tmp_path, base, name):
  make_folder(tmp_path, base + name, base + "b.mp4")
  rows = {"file": name, "video": "A."}, {"file": " b.mp4 ", "video": "B."}
  write_rows(tmp_path / f"{base}captions.jsonl", *rows)
  found = captions_of(tmp_path)
  assert found == {base + name: "A.", base + "b.mp4": "B."}
