"""The worker: the story of training, as one rank lives it.

In: a frozen TrainingRun and where its files are. Every rank opens the same prepared data, computes the same plan of
batches, builds its part of the model, takes up the newest verified checkpoint and goes on from there. Rank 0 alone talks.
Nothing here depends on who started the rank: processes of a laptop and Ray Train's workers in pods run this file unchanged.
"""

import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from finetune_api.errors import FineTuneError, TrainingFailed
from finetune_api.training_run import TrainingRun
from finetune_trainer.reporting.events import Event, Resumed
from finetune_trainer.secrets import Secrets
from finetune_trainer.storage.kept_logs import End, LogPlace, kept, log_name, printed_to
from finetune_trainer.training.assembling import (
    batch_plan,
    checkpoints,
    choose_rank_method,
    claimed_checkpoints,
    make_rank_engine,
    make_saver,
    micro_batches,
    milestones,
)
from finetune_trainer.training.early_stopping import evaluations_in
from finetune_trainer.training.loop import run_steps
from finetune_trainer.training.out_of_memory import is_out_of_memory, out_of_memory
from finetune_trainer.training.places import Placement
from finetune_trainer.training.profiling import StepProfiler
from finetune_trainer.training.reading_ahead import ReadingAhead
from finetune_trainer.training.restoring import begins_with_weights, restore
from finetune_trainer.training.signs import Signs
from finetune_trainer.training.spread import SlowRank
from finetune_trainer.training.startup_check import check_start
from finetune_trainer.training.stop_files import StopFiles
from finetune_trainer.training.surroundings import Driver, Position
from finetune_trainer.training.training_rank import TrainingRank, peak_memory_bytes, resident_bytes


def train_on_rank(
    run: TrainingRun,
    placement: Placement,
    *,
    driver: Driver,
    position: Position,
    attempt: str,
    start: int = 1,
    stop_files: StopFiles | None = None,
) -> None:
    """Train until done or stopped. Collective: called on every rank, with torch.distributed initialised.

    `attempt` names the logs that are kept, `start` tells those of its first workers from those of later ones. `stop_files`: where this
    rank's pod is asked to stop; None on one machine.
    """
    with _log_kept(f"training/{attempt}/{log_name(position.rank, start)}") as log:
        try:
            with _until_stopped(stop_files, position) as asked, _memory_told(run, position.rank):
                steps_done = _train(run, placement, driver, position, asked, log)
                if steps_done is not None:
                    # Before the pod may go, when it was asked to.
                    driver.finish(steps_done)
        except FineTuneError as error:
            # Before the other ranks are ended, whose errors would only say that this one is gone.
            driver.fail(error.reason, str(error))
            raise


@contextmanager
def _memory_told(run: TrainingRun, rank: int) -> Iterator[None]:
    """Whatever says in the block that memory ran out is OutOfMemory, with what would need less."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FineTuneError) or not is_out_of_memory(error):
            raise
        from finetune_trainer.training.collectives import rank_device

        peak = peak_memory_bytes(rank_device())
        training, micro_batch_size = run.job.spec.training, run.plan.micro_batch_size
        raise out_of_memory(error, training, rank=rank, micro_batch_size=micro_batch_size, peak_bytes=peak) from error


@contextmanager
def _log_kept(folder: str) -> Iterator[LogPlace]:
    """What this rank prints while the block runs, also how it fails, is kept in the place that the block gives."""
    place = LogPlace()
    with kept(place, folder, printed_to(), masked=Secrets().masked, warn=lambda text: print(text, file=sys.stderr)):
        try:
            yield place
        except Exception as error:
            traceback.print_exc()
            place.end = End.of(error)
            raise
        place.end = End(outcome="Done")


@contextmanager
def _until_stopped(files: StopFiles | None, position: Position) -> Iterator[Callable[[], bool]]:
    """Whether this rank's own pod is to be stopped, as a question; when the block ends, what waits for the checkpoint may go on.

    The first rank of each pod answers for it. On one machine there are no pods: `files` is None.
    """
    if files is None or position.worker != 0:
        yield lambda: False
        return
    files.clear()
    files.say_running()
    try:
        yield files.requested
    finally:
        files.say_stopped()


def _train(
    run: TrainingRun, placement: Placement, driver: Driver, position: Position, asked: Callable[[], bool], log: LogPlace
) -> int | None:
    """Steps that are done, on rank 0; None on the others."""
    from finetune_trainer.training.collectives import Ranks
    from finetune_trainer.training.own_time import OwnTime

    ranks = Ranks()
    check_order(ranks.rank, node=position.node, worker=position.worker, workers=position.workers)

    def tell(event: Event) -> None:
        if ranks.rank == 0:
            driver.record(event)

    # Every device and network, where there are others to compare them with: what is slow or wrong there would make all of it so.
    driver.progress("checking devices and network")
    check_start(run, ranks, position, tell)

    # What this node needs, fetched once for all of its ranks: no weights where a checkpoint has them all.
    signs = Signs(driver.progress)
    with signs.while_reading("fetching the model and the data"):
        places = placement.here(run, weights=begins_with_weights(run, checkpoints(run, placement), ranks))
    log.storage = checkpoints(run, places).storage

    # The data, memory-mapped, and with it the rows of every optimizer step.
    batches = batch_plan(run, places, "train")
    held_out = batch_plan(run, places, "evaluation") if run.data.evaluation is not None else None

    # The model: each rank reads the ranges that it will hold, or rank 0 reads it all and the engine cuts it over the ranks.
    # Where a checkpoint will give all values, nobody reads any.
    with signs.while_reading("loading the model"):
        method = choose_rank_method(run, places, ranks, tell)
        footprint = resident_bytes()
        engine = make_rank_engine(run, places, ranks, method, tell)

    # The newest verified checkpoint, whatever world size wrote it.
    store = claimed_checkpoints(run, places, ranks)
    taken_up = restore(engine, store, run, ranks, tell, signs, weights=places.weights)
    steps_done, evaluations = (taken_up.step, evaluations_in(taken_up.extra)) if taken_up is not None else (0, [])
    if steps_done or store.claim.number > 1:
        tell(Resumed(step=steps_done, attempt=store.claim.number))

    # Step after step, with evaluations and checkpoints, until all are done, the evaluations end it, or somebody asks for a stop.
    rank = TrainingRank(
        run=run,
        ranks=ranks,
        engine=engine,
        batches=batches,
        ahead=ReadingAhead(partial(micro_batches, batches, ranks, run.plan.micro_batch_size), run.plan.total_steps or 0),
        held_out=held_out,
        saver=make_saver(run, store, ranks, engine, tell, signs),
        driver=driver,
        asked=asked,
        tell=tell,
        signs=signs,
        profiler=StepProfiler(places.profile, ranks.rank),
        footprint_bytes=footprint,
        own_time=OwnTime(engine.head, engine.device),
        slow=SlowRank([f"rank {rank} on {host}" for rank, host in enumerate(ranks.gathered(socket.gethostname()))]),
    )
    steps_done = run_steps(rank, milestones(run, batches, store, ranks), done=steps_done, evaluations=evaluations)
    return steps_done if ranks.rank == 0 else None


def check_order(rank: int, *, node: int, worker: int, workers: int) -> None:
    """The ranks of a node follow one another, as many on each: collectives cross the network as seldom as they can.

    Raises TrainingFailed where Ray numbered otherwise. `workers`: of this node.
    """
    expected = node * workers + worker
    if rank != expected:
        raise TrainingFailed(
            f"Ray made worker {worker} of {workers} on node {node} rank {rank} and not {expected}: nodes don't run equally many workers; "
            "look at the nodes that joined Ray (each needs spec.workers.gpusPerNode GPUs that nothing else takes), then start the run again"
        )
