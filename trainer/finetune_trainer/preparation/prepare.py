"""Preparation: from a job's sources to a store of tokens that ranks map, made once for each fingerprint.

In: a FineTuneJob and the base model's folder. Out: a store, and the shape of the data for the plan. No GPU waits for this: it
runs before there is one, and neither torch nor transformers is loaded. Told in `prepare`; what is written is in `prepared`.
"""

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import tokenizers

from finetune_api.errors import InvalidData
from finetune_api.finetunejob import DataSource, FineTuneJob, TemplateSpec
from finetune_api.training_run import DataShape, SplitShape, Vocabulary
from finetune_trainer.data.cards import hub_card
from finetune_trainer.data.dialogues import Dialogue, Dropped, Parsed
from finetune_trainer.data.mixture import NAMED_ROWS, copies, held_out, limited, too_many, within_limit
from finetune_trainer.data.parsing import parse
from finetune_trainer.data.sources import Rows, read
from finetune_trainer.preparation.encoding import CHUNK_DIALOGUES, Chunk, EncodedChunk, Encoding, encode_chunks
from finetune_trainer.preparation.labels import Encoder
from finetune_trainer.preparation.packing import pack
from finetune_trainer.preparation.statistics import PartStatistics, Statistics
from finetune_trainer.preparation.store import Side, StoreWriter, read_meta, store_folder, write_store
from finetune_trainer.reporting.events import Event, Notice, StageAdvanced, StageStarted
from finetune_trainer.secrets import Secrets
from finetune_trainer.templates.registry import template_from_spec, template_notes
from finetune_trainer.templates.tokenizer import TokenizerFiles, read_tokenizer

# Raised when the same job would be written differently.
_FORMAT: Final = 3
# Objects that are made before the collector comes, 700 by default.
_COLLECTED_AFTER: Final = 20_000
_IN_EVALUATION: Final = "its conversation is in the evaluation split"
# Fields of the dataset that say how it is fetched, not what it is.
_FETCHING_FIELDS: Final = {"processes": True, "sources": {"__all__": {"token_secret", "credentials_secret"}}}

OnProgress = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A store in `folder`, which ranks open with `PreparedData.open`."""

    data_shape: DataShape
    folder: Path
    statistics: dict[str, Any]
    reused: bool  # it was there already


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One reading of one source. `side` None: the split is by fraction, and each tree's side is drawn."""

    name: str
    source: DataSource
    rows: Rows
    side: Side | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundData:
    """A job's data as it was found, and all that decides what it becomes. `fingerprint`: the name of the store that it becomes."""

    job: FineTuneJob
    encoding: Encoding
    encoder: Encoder
    parts: tuple[_Part, ...]
    fingerprint: str
    notes: tuple[str, ...]  # what is to be known of the template


def prepare(
    job: FineTuneJob, *, base: Path, model_folder: Path, folder: Path, secrets: Secrets, on_progress: OnProgress = lambda event: None
) -> Prepared:
    """Read, divide, encode and store, unless `folder` has that store. `base` is what relative paths in the job start from.

    Raises InvalidData, InvalidModel or InvalidSpec when the data, the tokenizer or the job is wrong; StorageFailed when `folder` is.
    """
    found = find_data(job, base=base, model_folder=model_folder, secrets=secrets, on_progress=on_progress)
    earlier = prepared_earlier(folder, found.fingerprint)
    if earlier is not None:
        on_progress(Notice(message=f"data prepared earlier is used again: {earlier.folder}"))
        return earlier
    return tokenise(found, folder, on_progress)


def find_data(
    job: FineTuneJob, *, base: Path, model_folder: Path, secrets: Secrets, on_progress: OnProgress = lambda event: None
) -> FoundData:
    """Find the sources and digest their content. Raises as `prepare` does."""
    spec = job.spec
    files = read_tokenizer(model_folder)
    encoding = Encoding(
        tokenizer=model_folder,
        template=spec.template,
        max_length=spec.training.max_sequence_length,
        overlong_turns=spec.dataset.overlong_turns,
        day=datetime.now(UTC).date(),
        end_of_text=files.end_of_text,
    )
    encoder = Encoder(files.tokenizer, template_from_spec(spec.template, files, encoding.day))
    parts = _parts(job, base, secrets, on_progress)
    return FoundData(
        job=job,
        encoding=encoding,
        encoder=encoder,
        parts=tuple(parts),
        fingerprint=_fingerprint(job, files, parts),
        notes=tuple(template_notes(spec.template, encoder.template, files)),
    )


def tokenise(found: FoundData, folder: Path, on_progress: OnProgress) -> Prepared:
    """Read, divide, encode and store. Raises as `prepare` does."""
    job, encoder, fingerprint, parts = found.job, found.encoder, found.fingerprint, list(found.parts)
    on_progress(StageStarted(stage="preparation", unit="dialogues"))
    for text in found.notes:
        on_progress(Notice(message=text))
    statistics = Statistics(parts=_described(parts))
    chunks = _chunks(job, parts, statistics, on_progress)
    encoded_chunks = encode_chunks(chunks, found.encoding, encoder, job.spec.dataset.processes)
    refused = _Refused(job.spec.dataset.max_invalid_rows, statistics)
    with write_store(folder, fingerprint) as store, _seldom_collected(), closing(encoded_chunks) as results:
        done = 0
        for chunk, encoded in results:
            origins = [(chunk.dialogues[position].source, chunk.dialogues[position].row) for position in encoded.origins]
            supervised_tokens = store.append(chunk.side, encoded.ids, encoded.supervised, encoded.lengths, encoded.dialogues, origins)
            statistics.add_encoded(chunk, encoded, supervised_tokens, encoder.tokenizer)
            refused.add(chunk, encoded)
            done += len(chunk.dialogues)
            on_progress(StageAdvanced(stage="preparation", done=done, detail=f"{sum(part.tokens for part in statistics.parts):,} tokens"))
        refused.check()
        shape = _data_shape(job, fingerprint, store, statistics)
        store.add_text("dialogue_template.json", encoder.template.to_json())
        store.meta |= {
            "data_shape": shape.model_dump(mode="json", by_alias=True),
            "statistics": statistics.to_json(store.lengths("train")),
        }
    for text in _notices(statistics):
        on_progress(Notice(message=text))
    written = prepared_earlier(folder, fingerprint)
    assert written is not None
    return replace(written, reused=False)


def _described(parts: Sequence[_Part]) -> list[PartStatistics]:
    """What is counted of each part, with what its own card says: a publication, which may come much later, does not look again."""
    return [PartStatistics(name=part.name, card=hub_card(part.rows.readme()), commit=part.rows.commit) for part in parts]


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Rows by the thousand set off the garbage collector, and hold no cycles: it comes less often, and leaves out what was imported."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def prepared_earlier(folder: Path, fingerprint: str) -> Prepared | None:
    """The store of that name, if it is there and whole, without a look at the sources."""
    whole = store_folder(folder, fingerprint)
    meta = read_meta(whole)
    return None if meta is None else Prepared(data_shape=shape_of(meta), folder=whole, statistics=meta["statistics"], reused=True)


def vocabulary(template: TemplateSpec, model_folder: Path) -> Vocabulary:
    """What the model's embedding has to hold once the template's control tokens are in the tokenizer."""
    before = read_tokenizer(model_folder).tokenizer
    encoder = Encoding(tokenizer=model_folder, template=template, max_length=1, overlong_turns="drop", day=date(1970, 1, 1)).encoder()
    ids = encoder.tokenizer.get_vocab()
    new = tuple(ids[token] for token in encoder.template.new_tokens if before.token_to_id(token) is None)
    return Vocabulary(size=max(ids.values()) + 1, new_token_ids=new)


def shape_of(meta: Mapping[str, Any]) -> DataShape:
    """The data's shape in a store's meta.json."""
    return DataShape.model_validate_json(json.dumps(meta["data_shape"]), by_alias=True, by_name=False)


def _parts(job: FineTuneJob, base: Path, secrets: Secrets, on_progress: OnProgress) -> list[_Part]:
    """Every reading of every source: the training split, and the evaluation split where one is named."""
    dataset, checkpoints = job.spec.dataset, job.spec.checkpoints
    evaluation = dataset.evaluation
    readings: list[tuple[Side | None, str | None]] = [("train" if evaluation is None or evaluation.fraction is None else None, None)]
    if evaluation is not None and evaluation.split is not None:
        readings.append(("evaluation", evaluation.split))
    parts = []
    for side, split in readings:
        for index, source in enumerate(dataset.sources):
            rows = read(
                source,
                split or source.split,
                base=base,
                secrets=secrets,
                checkpoints=checkpoints,
                field=f"spec.dataset.sources[{index}]",
                notice=lambda text: on_progress(Notice(message=text)),
            )
            name = source.path if split is None else f"{source.path} ({rows.split})"
            parts.append(_Part(name=name, source=source, rows=rows, side=side))
    return parts


def _fingerprint(job: FineTuneJob, files: TokenizerFiles, parts: list[_Part]) -> str:
    """SHA-256 (hex) of everything that shapes examples and rows: the data itself, how it is read, the tokenizer, template, length, seed."""
    value = {
        "format": _FORMAT,
        "tokenizers": tokenizers.__version__,
        "tokenizer": files.digest,
        "dataset": job.spec.dataset.model_dump(mode="json", by_alias=True, exclude=_FETCHING_FIELDS),  # type: ignore[arg-type]
        "template": job.spec.template.model_dump(mode="json", by_alias=True),
        "maxSequenceLength": job.spec.training.max_sequence_length,
        "seed": job.spec.training.seed,
        "content": [[part.side, part.rows.split, part.rows.identity()] for part in parts],
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _items(job: FineTuneJob, parts: list[_Part], notice: Callable[[int, str], None]) -> Iterator[tuple[int, Parsed | Dropped]]:
    """(part, what a row gave), in order; `notice` gets the part and a sentence. Raises InvalidData when more rows are wrong than may be."""
    current = 0

    def chained() -> Iterator[Parsed | Dropped]:
        nonlocal current
        for index, part in enumerate(parts):
            current = index
            parsed = parse(
                part.rows,
                part.source,
                leading_assistant_turns=job.spec.dataset.leading_assistant_turns,
                trailing_user_turns=job.spec.dataset.trailing_user_turns,
                notice=partial(notice, index),
            )
            yield from limited(parsed, part.source.limit)

    for item in within_limit(chained(), job.spec.dataset.max_invalid_rows):
        yield current, item


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What is drawn by tree: which trees are held out, and how often those of each part are used."""

    held_out: frozenset[str]
    copies: dict[int, dict[str, int]]  # by part; a part that is not in it uses each dialogue once

    def side(self, part: _Part, tree: str) -> Side | None:
        """None: the dialogue is left out, as its conversation is in the evaluation split."""
        if part.side is None:
            return "evaluation" if tree in self.held_out else "train"
        return None if part.side == "train" and tree in self.held_out else part.side

    def uses(self, part: int, side: Side, tree: str) -> int:
        """Held-out dialogues are used once, or not at all."""
        count = self.copies[part][tree] if part in self.copies else 1
        return min(count, 1) if side == "evaluation" else count


def _choice(job: FineTuneJob, parts: list[_Part]) -> _Choice:
    """Read the names of all trees first, where something is drawn from them; most jobs need only the held-out ones."""
    evaluation, seed = job.spec.dataset.evaluation, job.spec.training.seed
    weighted = [index for index, part in enumerate(parts) if part.source.weight != 1.0 and part.side != "evaluation"]
    if evaluation is None and not weighted:
        return _Choice(held_out=frozenset(), copies={})
    trees: list[dict[str, None]] = [{} for _ in parts]
    for index, item in _items(job, parts, lambda index, text: None):
        if not isinstance(item, Dropped):
            trees[index][item.tree] = None
    drawn = {index: copies(trees[index], parts[index].source.weight, seed) for index in weighted}
    out: frozenset[str] = frozenset()
    if evaluation is not None and evaluation.fraction is not None:
        used = {tree: None for index, names in enumerate(trees) for tree in names if index not in drawn or drawn[index][tree] > 0}
        # Without any tree there is nothing to divide; `_data_shape` says what became of the rows.
        out = held_out(used, evaluation.fraction, seed) if used else out
    elif evaluation is not None:
        out = frozenset(tree for index, part in enumerate(parts) if part.side == "evaluation" for tree in trees[index])
    return _Choice(held_out=out, copies=drawn)


def _chunks(job: FineTuneJob, parts: list[_Part], statistics: Statistics, on_progress: OnProgress) -> Iterator[Chunk]:
    """Dialogues of one part and side together; each side keeps the order of the rows. What is dropped is counted."""
    choice = _choice(job, parts)
    once = _TaughtOnce() if job.spec.dataset.repeated_messages == "once" else None
    open_chunks: dict[tuple[int, Side], Chunk] = {}

    def tell(index: int, text: str) -> None:
        statistics.parts[index].told.append(text)
        on_progress(Notice(message=text))

    for index, item in _items(job, parts, tell):
        if isinstance(item, Dropped):
            statistics.add_dropped(index, item)
            continue
        side = choice.side(parts[index], item.tree)
        uses = choice.uses(index, side, item.tree) if side else 0
        if side is None:
            statistics.add_dropped(index, Dropped(source=item.source, row=item.row, reason=_IN_EVALUATION, kind="filtered"))
        if side is None or uses == 0:
            continue
        statistics.add_dialogue(side, item)
        chunk = open_chunks.get((index, side))
        if chunk is None:
            chunk = open_chunks[index, side] = Chunk(side=side, part=index)
        chunk.dialogues.append(item)
        chunk.copies.append(uses)
        chunk.known.append(once.known(item) if once and isinstance(item, Dialogue) else frozenset())
        if len(chunk.dialogues) == CHUNK_DIALOGUES:
            yield open_chunks.pop((index, side))
    yield from open_chunks.values()


class _TaughtOnce:
    """Remembers the shared messages of the tree at hand; the paths of a tree come together."""

    def __init__(self) -> None:
        self._tree: tuple[str, str] | None = None
        self._taught: set[str] = set()

    def known(self, dialogue: Dialogue) -> frozenset[int]:
        """Positions of the messages that an earlier path teaches."""
        tree = (dialogue.source, dialogue.tree)
        if tree != self._tree:
            self._tree, self._taught = tree, set()
        known = frozenset(index for index, message in enumerate(dialogue.messages) if message.id is not None and message.id in self._taught)
        self._taught.update(message.id for message in dialogue.messages if message.id is not None)
        return known


def _data_shape(job: FineTuneJob, fingerprint: str, store: StoreWriter, statistics: Statistics) -> DataShape:
    """Raises InvalidData when a side has nothing to learn from."""
    sides: list[Side] = ["train"] if job.spec.dataset.evaluation is None else ["train", "evaluation"]
    shapes = {side: _split_shape(store, side, job.spec.training.max_sequence_length) for side in sides}
    for side, shape in shapes.items():
        if shape.supervised_tokens == 0:
            raise InvalidData(_nothing_to_learn(side, statistics))
    return DataShape(fingerprint=fingerprint, train=shapes["train"], evaluation=shapes.get("evaluation"))


class _Refused:
    """Rows that a template can't take: as wrong as those that can't be read, and counted with them."""

    def __init__(self, limit: int, statistics: Statistics) -> None:
        self._limit, self._statistics = limit, statistics
        self._count = 0
        self._named: list[Dropped] = []

    def add(self, chunk: Chunk, encoded: EncodedChunk) -> None:
        """Raises InvalidData when more rows are wrong than may be."""
        rows = [(chunk.dialogues[position], reason) for position, reason in encoded.refused]
        self._count += len(rows)
        found = [Dropped(source=row.source, row=row.row, reason=reason, kind="invalid") for row, reason in rows[:NAMED_ROWS]]
        self._named += found[: NAMED_ROWS - len(self._named)]
        if rows:
            self.check()

    def check(self) -> None:
        """Also at the end: a row that can't be read may come after the last that a template refuses. Raises InvalidData."""
        if self._count and self._count + self._statistics.invalid > self._limit:
            raise InvalidData(too_many(self._named, self._limit))


def _split_shape(store: StoreWriter, side: Side, capacity: int) -> SplitShape:
    lengths = store.lengths(side)
    return SplitShape(
        dialogues=store.dialogues(side),
        segments=len(lengths),
        tokens=int(lengths.sum()),
        supervised_tokens=store.supervised_tokens(side),
        rows=pack(lengths, capacity).num_rows,
        squared_lengths=int((lengths * lengths).sum()),
    )


def _nothing_to_learn(side: Side, statistics: Statistics) -> str:
    what = "training" if side == "train" else "evaluation"
    lines = [f"the {what} data has no supervised token: nothing of it counts in the loss"]
    lines += [
        f"{part.name}: {part.dialogues:,} dialogues" + "".join(f"; {number:,} x {reason}" for reason, number in part.dropped.most_common(5))
        for part in statistics.parts
    ]
    return "\n".join([*lines, "see it with `finetune data preview`; check format, columns, filter and spec.training.maxSequenceLength"])


def _notices(statistics: Statistics) -> list[str]:
    """A sentence for each source that gave less than its rows, or that the template writes otherwise."""
    return [
        f"{part.name}: " + ", ".join(f"{count:,} x {reason} (first: {part.places[reason][0]})" for reason, count in counted.most_common(5))
        for part in statistics.parts
        for counted in (part.dropped, part.rendered)
        if counted
    ]
