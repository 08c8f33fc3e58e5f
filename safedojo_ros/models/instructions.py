"""The sentences that a policy was trained on: its tokenizer, and the check that it knows one."""

import difflib
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer

from safedojo_ros.core.errors import ObservationRejected

PAD, UNKNOWN = "[PAD]", "[UNK]"
MAX_INSTRUCTION_LENGTH = 200
"""Characters; anything longer is refused before it reaches the tokenizer."""


def train_tokenizer(instructions: Sequence[str]) -> Tokenizer:
    """A word-level tokenizer of the words in `instructions`."""
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    trainer = WordLevelTrainer(special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
    return tokenizer


def check_instruction(text: str, known: Sequence[str]) -> None:
    """Raise `ObservationRejected` unless `text` is one of the `known` sentences (none: any)."""
    if not text.strip():
        raise ObservationRejected("the instruction is empty; publish a sentence")
    if len(text) > MAX_INSTRUCTION_LENGTH:
        raise ObservationRejected(
            f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_LENGTH}"
        )
    if known and text.strip().lower() not in {sentence.lower() for sentence in known}:
        near = difflib.get_close_matches(text, known, n=1, cutoff=0.0)
        raise ObservationRejected(
            f"the policy was not trained on '{text[:60]}'; the nearest it knows is '{near[0]}'"
        )
