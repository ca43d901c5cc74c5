"""What the pods of a FineTuneJob run. Each command imports only what it needs: `before-stop` must answer in milliseconds."""

import sys


def main(arguments: list[str]) -> int:
    """Run one command; its exit code is the contract of `finetune_api.pod_result`."""
    match arguments:
        case ["before-stop"]:
            from finetune_trainer.pods import before_stop

            return before_stop.main()
        case ["prepare"]:
            from finetune_trainer.pods import prepare

            return prepare.main()
        case ["train"]:
            from finetune_trainer.pods import train

            return train.main()
        case ["publish"]:
            from finetune_trainer.pods import publish

            return publish.main()
    print("usage: python -m finetune_trainer.pods prepare | train | publish | before-stop", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
