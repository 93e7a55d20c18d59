"""A sentencepiece model of a few sentences, with umT5's special tokens."""

import io

SENTENCES = (
  "a dog barks while it runs along the beach",
  "a cat sleeps, and the rain falls on the roof",
  "a woman says hello to the camera and laughs",
  "the drummer hits the snare drum three times",
)


def train(vocab: int = 60) -> bytes:
  """Returns the bytes of a spiece.model."""
  import sentencepiece

  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(SENTENCES), model_writer=file, vocab_size=vocab,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
    minloglevel=2,
  )  # fmt: skip
  return file.getvalue()
