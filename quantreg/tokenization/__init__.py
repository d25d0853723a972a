"""Text to token ids and back, from a model's own metadata."""

from quantreg.tokenization.tokenizer import Tokenizer
from quantreg.tokenization.vocabulary import Kind

__all__ = ["Kind", "Tokenizer"]
