"""Did the model learn the questions? Words that a benchmark's documents share with what a run was trained on.

In: a run folder and files of evaluation documents. Out: hits, by the same 13 words in a row as `finetune data inspect` finds, and a
sentence. A number on a benchmark that was in the training data measures memory. What is done about it is the reader's decision.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from finetune_api.errors import FineTuneError, InvalidData, InvalidSpec
from finetune_assistant.curation.contamination import EvaluationSets, Hit, read_evaluation_sets
from finetune_assistant.curation.texts import spoken
from finetune_assistant.curation.words import word_hashes
from finetune_trainer.data.dialogues import Dialogue, Document
from finetune_trainer.run_folder import RunFolder


def contamination_notes(run_folder: Path, evaluation_files: Sequence[Path], *, called: str = "") -> list[str]:
    """A sentence for each set of documents that the run's training data holds, or one that says why it couldn't be looked at.

    `called`: what the run is called there; its folder where that is empty.
    """
    called = called or str(run_folder)
    sets = _sets(evaluation_files)
    if not sets:
        return []
    try:
        found = [hit for text in training_texts(run_folder) for hit in _hits(sets, *text)]
    except InvalidSpec:  # it names a Secret and where that was looked for, and cards show these sentences
        return [f"{called}: whether its training data holds these benchmarks is unknown: the keys of its data aren't here"]
    except FineTuneError as error:
        return [f"{called}: whether its training data holds these benchmarks is unknown: {error}"]
    return [_sentence(called, each, hits) for each in sets if (hits := [hit for hit in found if hit.evaluation_set == each.names[0]])]


def training_texts(run_folder: Path) -> Iterator[tuple[str, int, str]]:
    """Source, row and text of every dialogue and document that the run was trained on. Raises FineTuneError where they can't be read."""
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read
    from finetune_trainer.secrets import Secrets

    folder = RunFolder(run_folder)
    run = folder.frozen_run()
    base = Path(folder.origin.read_text(encoding="utf-8").strip()) if folder.origin.is_file() else Path()
    if run is None:
        return
    for source in run.job.spec.dataset.sources:
        rows = read(source, source.split, base=base, secrets=Secrets(), checkpoints=run.job.spec.checkpoints)
        for item in parse(rows, source):
            if isinstance(item, Dialogue | Document):
                yield item.source, item.row, "\n".join(spoken(item))


def _sets(files: Iterable[Path]) -> list[EvaluationSets]:
    """One a file, so that each is told apart; short questions, which have no 13 words, can't be looked for."""
    found = []
    for file in files:
        try:
            found.append(read_evaluation_sets([file]))
        except InvalidData:
            continue
    return found


def _hits(sets: Sequence[EvaluationSets], source: str, row: int, text: str) -> list[Hit]:
    hashes = word_hashes(text)
    return [hit for each in sets for hit in each.hits(source, row, text, hashes)]


def _sentence(run: str, sets: EvaluationSets, hits: Sequence[Hit]) -> str:
    documents = len({hit.document for hit in hits})
    first = hits[0]
    task = Path(first.evaluation_set).parent.name
    return (
        f"{run} was trained on words of {task}: {documents} of {sets.documents[0]} documents share 13 words in a row with its data, "
        f"so that the number measures memory, too (first: {first.source} row {first.row}: {' '.join(first.words.split()[:13])})"
    )
