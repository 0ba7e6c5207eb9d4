"""What the models learn from: sources -> `Corpus` -> tokenizer -> `Examples` -> batches.

`corpus`, `sources` and `synthetic` know text and words, and need no torch; `tokens`, `examples`, `tasks` and `batching`
know token ids.
"""

from bareformers.data.corpus import Corpus, cache_folder

__all__ = ["Corpus", "cache_folder"]
