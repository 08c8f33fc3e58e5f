"""The sentences that a policy was trained on: its tokenizer, and the check that it knows one."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer

from safedojo_ros.core.errors import CheckpointError, ObservationRejected
from safedojo_ros.core.strict_json import read_json

TOKENIZER_FILE = "tokenizer.json"
PAD, UNKNOWN = "[PAD]", "[UNK]"
MAX_INSTRUCTION_LENGTH = 200
"""Characters; anything longer is refused before it reaches the tokenizer."""


def train_tokenizer(instructions: Sequence[str]) -> Tokenizer:
    """A word-level tokenizer of the words in `instructions`."""
    tokenizer = _splitting(WordLevel(unk_token=UNKNOWN))
    trainer = WordLevelTrainer(special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
    return tokenizer


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint; raises `CheckpointError` unless it is a list of words.

    Made anew of its words, so that nothing else in the file has a say.
    """
    if not (directory / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{TOKENIZER_FILE} is missing in {directory.name}")
    content = read_json(directory / TOKENIZER_FILE)
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or kind != "WordLevel":
        raise CheckpointError(f"{TOKENIZER_FILE} does not fit: expected a WordLevel model's words")
    numbers = [number for number in vocabulary.values() if type(number) is int]
    if sorted(numbers) != list(range(len(vocabulary))) or vocabulary.get(PAD) != 0:
        raise CheckpointError(
            f"{TOKENIZER_FILE} does not fit: its {len(vocabulary)} words are not numbered from 0, "
            f"which is {PAD}"
        )
    if UNKNOWN not in vocabulary:
        raise CheckpointError(f"{TOKENIZER_FILE} does not fit: it lacks {UNKNOWN}")
    tokenizer = _splitting(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([PAD, UNKNOWN])
    return tokenizer


def _splitting(model: WordLevel) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
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
