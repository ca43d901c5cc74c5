"""Did the model learn the questions? Words that a benchmark's documents share with what a run was trained on.

In: a run folder, or a job that hasn't begun, and files of evaluation documents. Out: hits, by the same 13 words in a row as `finetune data
inspect` finds, and a sentence. A number on a benchmark that was in the training data measures memory. What is done about it is the reader's
decision.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from finetune_api.errors import FineTuneError, InvalidData, InvalidSpec
from finetune_api.finetunejob import FineTuneJob
from finetune_assistant.curation.contamination import EvaluationSets, Hit, read_evaluation_sets
from finetune_assistant.curation.texts import spoken
from finetune_assistant.curation.words import word_hashes
from finetune_trainer.data.dialogues import Dialogue, Document
from finetune_trainer.run_folder import RunFolder
from finetune_trainer.secrets import Secrets


def contamination_notes(run_folder: Path, evaluation_files: Sequence[Path], *, called: str = "") -> list[str]:
    """A sentence for each set of documents that the run's training data holds, or one that says why it couldn't be looked at.

    `called`: what the run is called there; its folder where that is empty.
    """
    called = called or str(run_folder)
    sets = _sets(evaluation_files)
    if not sets:
        return []
    try:
        found = _all_hits(sets, _texts_of_run(run_folder))
    except InvalidSpec:  # it names a Secret and where that was looked for, and cards show these sentences
        return [f"{called}: whether its training data holds these benchmarks is unknown: the keys of its data aren't here"]
    except FineTuneError as error:
        return [f"{called}: whether its training data holds these benchmarks is unknown: {error}"]
    return [f"{called} was trained on words of {_sentence(each, hits)}" for each, hits in found]


def notes_before_training(job: FineTuneJob, evaluation_files: Sequence[Path], *, base: Path, secrets: Secrets) -> list[str]:
    """A sentence for each set of documents that the job's training data holds; none where the data can't be read, which others refuse.

    Relative paths of the job begin at `base`.
    """
    sets = _sets(evaluation_files)
    try:
        found = _all_hits(sets, _texts_of_job(job, base, secrets)) if sets else []
    except FineTuneError:
        return []
    remedy = "`finetune data export --decontaminate FILE` writes the data without such rows"
    return [f"the training data holds words of {_sentence(each, hits)}; {remedy}" for each, hits in found]


def _texts_of_run(run_folder: Path) -> Iterator[tuple[str, int, str]]:
    """As `_texts_of_job`, of the job of a run that has begun."""
    folder = RunFolder(run_folder)
    run = folder.frozen_run()
    base = Path(folder.origin.read_text(encoding="utf-8").strip()) if folder.origin.is_file() else Path()
    if run is not None:
        yield from _texts_of_job(run.job, base, Secrets())


def _texts_of_job(job: FineTuneJob, base: Path, secrets: Secrets) -> Iterator[tuple[str, int, str]]:
    """Source, row and text of every dialogue and document to be trained on. Raises FineTuneError where they can't be read."""
    from finetune_trainer.data.parsing import parse
    from finetune_trainer.data.sources import read

    for source in job.spec.dataset.sources:
        rows = read(source, source.split, base=base, secrets=secrets, checkpoints=job.spec.checkpoints)
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


def _all_hits(sets: Sequence[EvaluationSets], texts: Iterable[tuple[str, int, str]]) -> list[tuple[EvaluationSets, list[Hit]]]:
    """The sets that the texts share words with, and where."""
    found = [hit for text in texts for hit in _hits(sets, *text)]
    return [(each, hits) for each in sets if (hits := [hit for hit in found if hit.evaluation_set == each.names[0]])]


def _hits(sets: Sequence[EvaluationSets], source: str, row: int, text: str) -> list[Hit]:
    hashes = word_hashes(text)
    return [hit for each in sets for hit in each.hits(source, row, text, hashes)]


def _sentence(sets: EvaluationSets, hits: Sequence[Hit]) -> str:
    documents = len({hit.document for hit in hits})
    first = hits[0]
    # Documents of a task are in a folder of its name; prompts are a file of the user's.
    file = Path(first.evaluation_set)
    called = file.parent.name if file.stem in ("test", "validation") else file.name
    return (
        f"{called}: {documents} of {sets.documents[0]} documents share 13 words in a row with its data, "
        f"so that the number measures memory, too (first: {first.source} row {first.row}: {' '.join(first.words.split()[:13])})"
    )
