"""How answers are drawn: what a user asks for, over what the model says of itself, over values of ours.

In: options and a model's generation config. Out: a generation config for transformers. Prompts, texts and devices are unknown here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# What StarChat alpha was shown with: for models whose generation config says nothing about sampling. Its repetition penalty of 1.2 isn't
# among them: transformers punishes the prompt's tokens too, which ruins the frames of dialogue prompting. Models of ours record their own.
USUAL: Final = {"temperature": 0.2, "top_k": 50, "top_p": 0.95}
LONGEST_ANSWER: Final = 256  # tokens; of a model that says nothing about it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn; None leaves it to the model's generation config. `greedy` takes the likeliest token each time."""

    greedy: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None


AS_THE_MODEL: Final = Sampling()


def window_of(config: Any) -> int:
    """Most tokens that prompt and answer may have together, by a transformers model's config."""
    config = config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1024)


def longest_answer(model: Any, sampling: Sampling, otherwise: int) -> int:
    """Tokens reserved for an answer: at most half of the window. `otherwise` counts where neither user nor model says it."""
    wanted = sampling.max_new_tokens or model.generation_config.max_new_tokens or otherwise
    return min(int(wanted), window_of(model.config) // 2)


def end_ids(own: Any, of_prompter: Sequence[int]) -> list[int]:
    """Ids at which an answer is over: the generation config's `eos_token_id` (an id, a list or None), then those that the prompter knows.

    >>> end_ids(2, [7, 2]), end_ids(None, [7])
    ([2, 7], [7])
    """
    own = own if isinstance(own, list) else [] if own is None else [own]
    return list(dict.fromkeys([*own, *of_prompter]))


def generation_config(model: Any, sampling: Sampling, *, max_new_tokens: int, stop_ids: Sequence[int]) -> Any:
    """A copy of the model's own, changed where the user asks for something else."""
    import copy

    config = copy.deepcopy(model.generation_config)
    config.max_new_tokens, config.max_length = max_new_tokens, None
    config.eos_token_id = end_ids(config.eos_token_id, stop_ids) or None
    if config.pad_token_id is None:
        config.pad_token_id = (config.eos_token_id or [0])[-1]
    if sampling.repetition_penalty is not None:
        config.repetition_penalty = sampling.repetition_penalty
    given = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    if sampling.greedy or sampling.temperature == 0:
        config.do_sample, given = False, {}
    elif any(value is not None for value in given.values()):
        config.do_sample = True
    if config.do_sample is None and all(getattr(config, name) is None for name in USUAL):
        config.do_sample = True
        given = {**USUAL, **{name: value for name, value in given.items() if value is not None}}
    if not config.do_sample:
        # Transformers' own defaults: it remarks on others, and for None takes the model's (5.23).
        config.temperature, config.top_k, config.top_p = 1.0, 50, 1.0
    for name, value in given.items():
        if value is not None:
            setattr(config, name, value)
    return config
