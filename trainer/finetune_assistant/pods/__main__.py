"""What the evaluation's pod runs; the other stages' are `python -m finetune_trainer.pods`."""

import sys


def main(arguments: list[str]) -> int:
    """Run one command; its exit code is the contract of `finetune_api.pod_result`."""
    match arguments:
        case ["evaluate"]:
            from finetune_assistant.pods.evaluate import main as evaluate

            return evaluate()
    print("usage: python -m finetune_assistant.pods evaluate", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
