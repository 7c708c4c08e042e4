"""Adversarial examples: words are replaced where a trained classifier's gradients say that it changes its mind.

Shapes: B rows, T tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from burnish.augment.base import OpenRun, reject, replacement
from burnish.augment.neighbours import Neighbours, embedding_of
from burnish.augment.synonyms import keep_alike
from burnish.augment.vectors import Sentences, padded
from burnish.augment.words import Words, chosen_count
from burnish.core.files import sha256
from burnish.core.paths import resolve_path
from burnish.data.augment_config import AdversarialConfig
from burnish.data.augmenting import Source, Variant
from burnish.models.classifier import Classifier, class_logits
from burnish.models.forward import positions_of
from burnish.models.load import Loaded, pad_id

BATCH = 32


@dataclass
class Attempt:
    """One row under attack.

    Attributes:
        words: Its words, as they are by now.
        label: Number of its class.
        left: How many words may still be replaced.
        changes: What was replaced.
        flipped: The class that the model now sees, once it is another; None before.
    """

    words: Words
    label: int
    left: int
    changes: list[dict[str, Any]] = field(default_factory=list)
    flipped: str | None = None


class Adversarial:
    """Greedy search for words that change what a classifier answers, while the label stays what it is.

    Replacing a word of input embedding e by one of e' changes the loss, to first order, by ``(e' - e) · dL/de``
    (HotFlip, equation 5, for words). In every turn the replacement with the largest increase is made, of all telling
    words and their neighbours, and the model is asked again, until it errs or too much was replaced. Rows that it gets
    wrong to begin with have no adversarial example. Unlike TextFooler, places and words are chosen by gradients and
    not by deleting words and trying synonyms, which takes one pass for a turn and not one for every word.

    Args:
        name: Of the recipe's entry.
        config: Its settings.
        seed: Kept in the rows; nothing is drawn.
        open_run: Opens the run's model.
    """

    def __init__(self, name: str, config: AdversarialConfig, seed: int, open_run: OpenRun) -> None:
        self.name, self.config, self.seed, self.open_run = name, config, seed, open_run
        self.sentences = Sentences(config.similarity)

    def fingerprint(self) -> Any:
        """Hashes of what the run handed over, and of the encoder."""
        folder = resolve_path(self.config.run, None)
        files = sorted(folder.glob("final/*.safetensors")) or sorted(folder.glob("*.safetensors"))
        return [self.name, self.seed, [sha256(path) for path in files], self.sentences.fingerprint()]

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """At most one new row for each: the search has one answer, whatever number of copies is asked for."""
        numbers = {label: i for i, label in enumerate(self._classifier.labels)}
        strange = sorted({row.label for row in rows} - numbers.keys())
        if strange:
            raise reject(
                f"the run's model does not know the class `{strange[0]}`",
                f"run: {self.config.run}",
                "name a run of a classification with these classes: " + ", ".join(numbers),
            )
        made: list[list[Variant]] = []
        for start in range(0, len(rows), BATCH):
            attempts = [self._attempt(row, numbers[row.label]) for row in rows[start : start + BATCH]]
            self._attack(attempts)
            for attempt in attempts:
                found = attempt.flipped is not None and attempt.changes
                change = {"run": self.config.run, "flipped_to": attempt.flipped}
                made.append([Variant(str(attempt.words), [*attempt.changes, change])] if found else [])
        return keep_alike(self.sentences, rows, made, self.config.min_similarity)

    @cached_property
    def _loaded(self) -> Loaded:
        loaded = self.open_run(self.config.run)
        if loaded.classifier is None:
            fix = "name the folder of a run of `task: classification`"
            raise reject("this run has trained no classifier", f"run: {self.config.run}", fix)
        for parameter in [*loaded.model.parameters(), *loaded.classifier.parameters()]:
            parameter.requires_grad_(False)  # the gradients of the inputs are all that is asked for
        return loaded

    @property
    def _classifier(self) -> Classifier:
        assert self._loaded.classifier is not None
        return self._loaded.classifier

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(self._loaded, "run")

    def _attempt(self, row: Source, label: int) -> Attempt:
        words = Words.of(row.text)
        return Attempt(words, label, chosen_count(len(words), self.config.max_changed))

    def _attack(self, attempts: list[Attempt]) -> None:
        """Replace words turn by turn, in all rows that still hold."""
        waiting = [attempt for attempt in attempts if len(attempt.words)]
        while waiting:
            predicted, gradients_BTD, offsets = self._look([str(a.words) for a in waiting], [a.label for a in waiting])
            going_on = []
            for i, attempt in enumerate(waiting):
                if predicted[i] != attempt.label:
                    attempt.flipped = self._classifier.labels[predicted[i]]
                elif attempt.left and self._replace(attempt, gradients_BTD[i], offsets[i]):
                    going_on.append(attempt)
            waiting = going_on

    def _look(self, texts: list[str], labels: list[int]) -> tuple[list[int], Tensor, list[list[tuple[int, int]]]]:
        """What the model answers, and the gradient of its loss by the input embedding of every token, [B, T, D]."""
        loaded = self._loaded
        most = positions_of(loaded.model.config) or 512
        encoded = loaded.tokenizer(texts, truncation=True, max_length=most, return_offsets_mapping=True, verbose=False)
        batch = padded(encoded["input_ids"], pad_id(loaded.tokenizer))
        device = loaded.model.device
        for name in ("input_ids", "attention_mask", "position_ids"):
            batch[name] = batch[name].to(device)  # type: ignore[literal-required]
        with torch.enable_grad(), _leaf_embeddings(loaded) as seen:
            logits = class_logits(loaded.model, self._classifier, batch)
            truth = torch.tensor(labels, device=device)
            loss = torch.nn.functional.cross_entropy(logits.float(), truth, reduction="sum")
            (gradients,) = torch.autograd.grad(loss, seen)
        return logits.argmax(-1).tolist(), gradients.float().cpu(), encoded["offset_mapping"]

    def _replace(self, attempt: Attempt, gradients_TD: Tensor, offsets: list[tuple[int, int]]) -> bool:
        """Make the replacement that promises the largest increase of the loss; False where none promises any."""
        best: tuple[float, int, str, float] | None = None
        starts = {start: token for token, (start, end) in enumerate(offsets) if end > start}
        embedding = embedding_of(self._loaded)
        replaced = {change["place"] for change in attempt.changes}
        for place in attempt.words.telling():
            old = attempt.words.core(place)
            token = starts.get(_start_of(attempt.words, place))
            near = self._neighbours.of(old, self.config.min_cosine)[: self.config.candidates]
            if token is None or place in replaced or not near:
                continue
            ids = [
                self._neighbours.ids[self._neighbours.place[word]] for word in (old.casefold(), *(w for w, _ in near))
            ]
            vectors = embedding[torch.tensor(ids, device=embedding.device)].float().cpu()
            gains = (vectors[1:] - vectors[0]) @ gradients_TD[token]
            top = int(gains.argmax())
            if gains[top] > 0 and (best is None or float(gains[top]) > best[0]):
                best = (float(gains[top]), place, *near[top])
        if best is None:
            return False
        gain, place, word, cosine = best
        old = attempt.words.core(place)
        new = attempt.words.put(place, word)
        attempt.changes.append(replacement(place, old, new, gain=round(gain, 4), cosine=cosine))
        attempt.left -= 1
        return True


def adversarial(name: str, config: AdversarialConfig, seed: int, open_run: OpenRun) -> Adversarial:
    """Adversarial examples against the classifier of a run."""
    return Adversarial(name, config, seed, open_run)


@contextmanager
def _leaf_embeddings(loaded: Loaded) -> Iterator[list[Tensor]]:
    """Makes the input embeddings the place where gradients end, on this model and for this block only."""
    seen: list[Tensor] = []

    def keep(module: Any, given: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        seen.append(leaf)
        return leaf

    handle = loaded.model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _start_of(words: Words, place: int) -> int:
    """Where the core of a word begins in the text."""
    before = sum(len(words.before[i]) + len(words.words[i]) for i in range(place)) + len(words.before[place])
    return before + words.words[place].find(words.core(place))
