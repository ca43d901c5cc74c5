"""THE STORY of judging: each pair is shown in both orders, and an answer wins only if it wins in both.

In: pairs of answers, or single ones, and something to ask. Out: what was said of each, and what follows from it. A reply without readable
scores is asked for once more; what stays unreadable is kept as invalid. Endpoints, files and pages are unknown here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from finetune_assistant.endpoint.client import Message, Reply, RequestRefused
from finetune_assistant.judging.answers import Answer, Pair
from finetune_assistant.judging.rubric import Messages, asked_again, pair_messages, single_messages
from finetune_assistant.judging.verdict import Verdict, verdict_of

Order = Literal["ab", "ba"]
# a, b: that answer won in both orders. tie: in no order the other one won than in the other order. flip: in each order another one won.
# same: the answers are equal, and nobody was asked. invalid: an order without readable scores.
Outcome = Literal["a", "b", "tie", "flip", "same", "invalid"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Judge(Protocol):
    """Who is asked; for several threads at once."""

    def ask(self, messages: Sequence[Message]) -> Reply:
        """The reply to a request. RequestRefused is about this request, any other error about all that follow."""

    def stop(self) -> None:
        """Give up what waits for its turn; a request that was sent is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One reply of the judge. `scores` are those of answers a and b, whatever the order; None for the reason in `problem`.

    `requests`: names of the transcripts, the last one first read.
    """

    order: Order
    scores: tuple[float, float] | None
    problem: str
    contradiction: bool
    reply: str
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """A pair with its judgements: two, or none where the answers are the same."""

    pair: Pair
    judgements: tuple[Judgement, ...]

    @property
    def outcome(self) -> Outcome:
        """What both orders together say."""
        if not self.judgements:
            return "same"
        preferred = [_preferred(judgement.scores) for judgement in self.judgements if judgement.scores is not None]
        if len(preferred) < len(self.judgements):
            return "invalid"
        if set(preferred) == {"a", "b"}:
            return "flip"
        return preferred[0] if len(set(preferred)) == 1 else "tie"

    @property
    def difference(self) -> float | None:
        """How much higher answer a was scored, the mean of both orders; None where one of them is unreadable."""
        if self.outcome == "same":
            return 0.0
        scores = [judgement.scores for judgement in self.judgements if judgement.scores is not None]
        return None if len(scores) < 2 else sum(a - b for a, b in scores) / len(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """One answer with its score; None for the reason in `problem`."""

    answer: Answer
    score: float | None
    problem: str
    reply: str
    requests: tuple[str, ...]


def judge_pairs(pairs: Sequence[Pair], judge: Judge, *, concurrency: int = 4) -> Iterator[JudgedPair]:
    """Each pair as soon as both its orders are judged, `concurrency` of them at once. Errors of the judge end it, save RequestRefused."""

    def judged(pair: Pair) -> JudgedPair:
        if pair.answer_a == pair.answer_b:
            return JudgedPair(pair=pair, judgements=())
        return JudgedPair(pair=pair, judgements=(_judgement(pair, "ab", judge), _judgement(pair, "ba", judge)))

    return _side_by_side(pairs, judged, judge, concurrency)


def judge_answers(answers: Sequence[Answer], judge: Judge, *, concurrency: int = 4) -> Iterator[JudgedAnswer]:
    """Each answer by itself, as soon as it is judged."""

    def judged(answer: Answer) -> JudgedAnswer:
        verdict, reply, requests = _verdict(single_messages(answer.prompt, answer.text), 1, judge)
        score = None if verdict.scores is None else verdict.scores[0]
        return JudgedAnswer(answer=answer, score=score, problem=verdict.problem, reply=reply, requests=requests)

    return _side_by_side(answers, judged, judge, concurrency)


def _judgement(pair: Pair, order: Order, judge: Judge) -> Judgement:
    first, second = (pair.answer_a, pair.answer_b) if order == "ab" else (pair.answer_b, pair.answer_a)
    verdict, reply, requests = _verdict(pair_messages(pair.prompt, first, second), 2, judge)
    scores = None
    if verdict.scores is not None:
        scores = (verdict.scores[0], verdict.scores[1]) if order == "ab" else (verdict.scores[1], verdict.scores[0])
    return Judgement(
        order=order, scores=scores, problem=verdict.problem, contradiction=verdict.contradiction, reply=reply, requests=requests
    )


def _verdict(messages: Messages, scores: int, judge: Judge) -> tuple[Verdict, str, tuple[str, ...]]:
    """What a judge says to a request, asked a second time where the first reply can't be read; (verdict, reply, names of transcripts)."""
    try:
        reply = judge.ask(messages)
        verdict = verdict_of(reply.text, scores=scores, cut=reply.cut)
        if verdict.scores is not None:
            return verdict, reply.text, (reply.request,)
        again = judge.ask(asked_again(messages, reply.text, scores))
    except RequestRefused as refusal:
        return Verdict(scores=None, problem=str(refusal)), "", ()
    return verdict_of(again.text, scores=scores, cut=again.cut), again.text, (reply.request, again.request)


def _preferred(scores: tuple[float, float]) -> Literal["a", "b", "tie"]:
    return "tie" if scores[0] == scores[1] else "a" if scores[0] > scores[1] else "b"


def _side_by_side(items: Iterable[Item], judged: Callable[[Item], Result], judge: Judge, concurrency: int) -> Iterator[Result]:
    """Results as they come, of `concurrency` items at once. After an error nothing new begins; it is raised when the others are done."""
    remaining = iter(items)
    under_way: set[Future[Result]] = set()
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="judge") as pool:
        try:
            while True:
                while len(under_way) < concurrency and (item := next(remaining, None)) is not None:
                    under_way.add(pool.submit(judged, item))
                if not under_way:
                    return
                finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BaseException:  # Ctrl-C too: the pool waits for its threads, which must not wait for their turns
            judge.stop()
            raise
