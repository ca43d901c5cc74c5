"""A sink that keeps what it is told, for tests of whoever tells."""

from dataclasses import dataclass, field

from finetune_trainer.reporting.events import Event


@dataclass
class Heard:
    """`events`: in order."""

    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing is open."""
