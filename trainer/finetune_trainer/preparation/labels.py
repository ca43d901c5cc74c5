"""From a dialogue to token ids and labels, one dialogue at a time, before anything is packed.

In: dialogues, a template and a tokenizer that holds its control tokens. Out: examples, unshifted. What the template writes
is encoded with control tokens recognised; what people wrote is encoded apart and never becomes one. So a prompt that `chat`
makes here is a token prefix of what was trained. Rows, files and tensors are unknown here.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from finetune_api.errors import InvalidData
from finetune_trainer.data.dialogues import Dialogue, Message
from finetune_trainer.preparation.examples import Encoded, EncodedDialogue, OverlongTurns
from finetune_trainer.preparation.pieces import Pieces
from finetune_trainer.preparation.texts import TextEncoder
from finetune_trainer.preparation.turn_encoder import TurnEncoder, is_plain
from finetune_trainer.preparation.words import WordEncoder
from finetune_trainer.templates.registry import add_control_tokens
from finetune_trainer.templates.tokenizer import control_tokens
from finetune_trainer.templates.turns import Masking, Rendered, Template, Tools, Unrendered


class Encoder:
    """A tokenizer and a template that fit each other. Adds the template's control tokens to the tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        """Raises InvalidModel if the tokenizer can't take the control tokens, or has others than the model was trained with."""
        self.template = add_control_tokens(tokenizer, template)
        self.tokenizer = tokenizer
        control = control_tokens(tokenizer, self.template.chat_template())
        words = WordEncoder.of(tokenizer)
        self._texts = TextEncoder(tokenizer, control, self.template.turn_tokens, words)
        self._turns = TurnEncoder.of(tokenizer, self.template, words)

    def encode_prompt(self, messages: Sequence[Message], tools: Tools = (), generation_prompt: bool = True) -> list[int]:
        """What the model is given to answer `messages`: a prefix of what it was trained on. Raises InvalidData."""
        try:
            (encoded,) = self._encoded([self.template.prompt(messages, tools, generation_prompt)])
            if isinstance(encoded, Unrendered):
                raise encoded
            return encoded.ids
        except Unrendered as error:
            raise InvalidData(f"the template can't take this dialogue: {error}") from None

    def encode(
        self,
        dialogues: Sequence[Dialogue],
        *,
        max_length: int | None = None,
        overlong_turns: OverlongTurns = "drop",
        known: Sequence[frozenset[int]] | None = None,
    ) -> list[Encoded]:
        """Examples of each dialogue, of at most `max_length` tokens (None: as long as it is).

        `known[i]` holds the positions of messages in dialogue i that are not to be learnt, because another dialogue teaches them.
        """
        known = known or [frozenset()] * len(dialogues)
        taught = [_taught(each.messages, its_known, self.template.masking) for each, its_known in zip(dialogues, known, strict=True)]
        texts = self._texts_of(dialogues, taught)
        encoded = []
        for dialogue, its_texts, its_taught in zip(dialogues, texts, taught, strict=True):
            try:
                if isinstance(its_texts, Unrendered):
                    raise its_texts
                encoded.append(self._examples(dialogue, its_texts, its_taught, max_length, overlong_turns))
            except Unrendered as error:
                encoded.append(Encoded(refused=str(error)))
        return encoded

    def _texts_of(self, dialogues: Sequence[Dialogue], taught: Sequence[list[int]]) -> list[list[EncodedDialogue] | Unrendered]:
        """The texts of each dialogue; all of them are encoded together."""
        found: dict[int, list[EncodedDialogue] | Unrendered] = {}
        if self._turns is not None:
            plain = [index for index, each in enumerate(dialogues) if is_plain(each)]
            found.update(zip(plain, self._turns.encode([dialogues[index].messages for index in plain]), strict=True))
        rendered: list[tuple[int, Rendered]] = []
        for index, dialogue in enumerate(dialogues):
            if index in found:
                continue
            try:
                renderings = self.template.renderings(dialogue.messages, dialogue.tools, taught[index])
            except Unrendered as error:
                found[index] = error
            else:
                found[index] = []
                rendered += [(index, each) for each in renderings]
        for (index, _), text in zip(rendered, self._encoded([each for _, each in rendered]), strict=True):
            before = found[index]
            if not isinstance(before, Unrendered):
                found[index] = text if isinstance(text, Unrendered) else [*before, text]
        return [found[index] for index in range(len(dialogues))]

    def _encoded(self, rendered: Sequence[Rendered]) -> list[EncodedDialogue | Unrendered]:
        return [
            text
            if isinstance(text, Unrendered)
            else EncodedDialogue(ids=text.ids, answers=text.answers, seams=text.seams, starts=text.messages, rendered=each)
            for each, text in zip(rendered, self._texts.encode(rendered), strict=True)
        ]

    def _examples(
        self, dialogue: Dialogue, texts: Sequence[EncodedDialogue], taught: list[int], max_length: int | None, overlong_turns: OverlongTurns
    ) -> Encoded:
        encoded = Encoded()
        reached: set[int] = set()
        wanted = frozenset(taught)
        for text in texts:
            targets = sorted({message for message, _ in text.answers if message in wanted} - reached)
            reached.update(targets)
            if max_length is None or len(text.ids) <= max_length:
                example = text.example(targets, self.template.masking, leads=True)
                encoded.examples += [example] if targets and example.num_supervised else []
            elif targets:
                count = max(targets) + 1 if len(texts) > 1 else len(dialogue.messages)
                part = dialogue._replace(messages=dialogue.messages[:count])
                Pieces(self._piece, part, text, targets, max_length, overlong_turns, self.template).add_to(encoded)
            encoded.seams += text.seams
            if text.rendered is not None:
                encoded.altered += text.rendered.altered
                encoded.reasoning_left_out += text.rendered.reasoning_left_out
                encoded.closed += text.rendered.closed
        encoded.own_examples = max(len(texts) - 1, 0)
        encoded.beyond_bound = len(set(taught) - reached)
        return encoded

    def _piece(self, messages: Sequence[Message], tools: Tools, targets: Sequence[int]) -> EncodedDialogue:
        """A stretch of a dialogue as one text, in which `targets` are answers. Raises Unrendered."""
        if self._turns is not None and not tools and all(message.role != "tool" and not message.tool_calls for message in messages):
            return self._turns.encode([messages])[0][0]
        encoded = self._encoded(self.template.renderings(messages, tools, targets)[-1:])[0]
        if isinstance(encoded, Unrendered):
            raise encoded
        return encoded


def _taught(messages: Sequence[Message], known: frozenset[int], masking: Masking) -> list[int]:
    """Positions of the answers that are to be learnt; what a row says of a message comes before the masking."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    last = answers[-1:]
    return [
        index
        for index in answers
        if index not in known
        and (messages[index].learnt if messages[index].learnt is not None else masking != "last_assistant" or index in last)
    ]
