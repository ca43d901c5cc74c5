"""What pods run that have to do with an evaluation; the other ones' is `python -m finetune_trainer.pods`."""

import sys


def main(arguments: list[str]) -> int:
    """Run one command; its exit code is the contract of `finetune_api.pod_result`."""
    match arguments:
        case ["evaluate"]:
            from finetune_assistant.pods.evaluate import main as evaluate

            return evaluate()
        case ["prepare"]:
            from finetune_assistant.pods.prepare import main as prepare

            return prepare()
    print("usage: python -m finetune_assistant.pods evaluate | prepare", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
