"""Ids are the libraries' own, after Wan's cleaning and with the end."""

import io

import pytest
import sentencepiece
import tokenizers

from ccl_jax.codecs import tokenizer
from ccl_jax.codecs.tokenizer import clean, open_tokenizer
from tests.codecs.vocabulary import SENTENCES, train

PROMPT = "a  dog &amp;amp; a cat\n"


@pytest.fixture(scope="module")
def model():
  return train()


@pytest.fixture
def files(model, tmp_path):
  """(spiece.model, tokenizer.json) of the same pieces."""
  library = sentencepiece.SentencePieceProcessor(model_proto=model)
  (tmp_path / "spiece.model").write_bytes(model)
  pieces = [
    (library.id_to_piece(i), library.get_score(i))
    for i in range(library.get_piece_size())
  ]
  fast = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
  fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  fast.post_processor = tokenizers.processors.TemplateProcessing(
    "$A </s>", special_tokens=[("</s>", 1)]
  )
  fast.enable_truncation(2)  # as files are saved that were used so
  fast.enable_padding(length=9)
  fast.save(str(tmp_path / "tokenizer.json"))
  return tmp_path / "spiece.model", tmp_path / "tokenizer.json"


def test_ids_are_the_librarys(files, model):
  library = sentencepiece.SentencePieceProcessor(model_proto=model)
  ours, fast = (open_tokenizer(path) for path in files)
  for text in [*SENTENCES, "", "zebra"]:
    assert ours(text) == fast(text) == library.encode(text, add_eos=True)
  assert ours("") == [1] == ours(" \n ")
  assert ours(PROMPT) == [*library.encode("a dog & a cat"), 1]
  assert ours.size == fast.size == library.get_piece_size()


def test_is_cut_in_front_of_the_end(files):
  for path in files:
    ours = open_tokenizer(path)
    whole = ours(SENTENCES[0])
    assert len(whole) > 5
    assert ours(SENTENCES[0], 4) == [*whole[:3], 1]
    assert ours(SENTENCES[0], len(whole)) == whole
    assert ours(SENTENCES[0], 1) == [1]


@pytest.mark.parametrize(
  ("text", "cleaned"),
  [
    (PROMPT, "a dog & a cat"),
    ("schÃ¶n \u201cquoted\u201d", 'schön "quoted"'),
    ("\t &lt;b&gt; \u3000 \u00a0x ", "<b> x"),
    ("&nbsp;", ""),
  ],
)
def test_cleaning_is_wans(text, cleaned):
  assert clean(text) == cleaned


def test_a_folder_is_searched(files):
  folder = files[0].parent
  assert open_tokenizer(folder)("a dog") == open_tokenizer(files[1])("a dog")
  files[1].unlink()
  assert open_tokenizer(folder)("a dog") == open_tokenizer(files[0])("a dog")
  files[0].unlink()
  with pytest.raises(ValueError, match=r"holds none of tokenizer.json, spiece"):
    open_tokenizer(folder)


@pytest.mark.parametrize("name", tokenizer.NAMES)
def test_a_wrong_file_is_one_error(tmp_path, name):
  (tmp_path / name).write_bytes(b"<html>404</html>")
  with pytest.raises(ValueError, match=f"{name} cannot be read.*Download"):
    open_tokenizer(tmp_path / name)
  with pytest.raises(ValueError, match="does not exist"):
    open_tokenizer(tmp_path / "absent.model")
  (tmp_path / "weights.pth").write_bytes(b"")
  with pytest.raises(ValueError, match="is no tokenizer: expected"):
    open_tokenizer(tmp_path / "weights.pth")


def test_a_file_without_the_end_is_refused(tmp_path):
  fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
  fast.save(str(tmp_path / "tokenizer.json"))
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(SENTENCES), model_writer=file, vocab_size=40,
    eos_id=-1, hard_vocab_limit=False, minloglevel=2,
  )  # fmt: skip
  (tmp_path / "spiece.model").write_bytes(file.getvalue())
  for name in tokenizer.NAMES:
    with pytest.raises(ValueError, match=f"{name} has no token </s>"):
      open_tokenizer(tmp_path / name)
