"""What the pods of a FineTuneJob run. Each command imports only what it needs: `before-stop` must answer in milliseconds."""

import sys


def main(arguments: list[str]) -> int:
    """Run one command; its exit code is the contract of `finetune_api.pod_result`."""
    match arguments:
        case ["before-stop"]:
            from finetune_trainer.pods.before_stop import main as before_stop

            return before_stop()
        case ["prepare"]:
            from finetune_trainer.pods.prepare import main as prepare

            return prepare()
        case ["train"]:
            from finetune_trainer.pods.train import main as train

            return train()
        case ["publish"]:
            from finetune_trainer.pods.publish import main as publish

            return publish()
    print("usage: python -m finetune_trainer.pods prepare | train | publish | before-stop", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
