"""The command `finetune`: one file a command, thin."""
