"""`make families`: tiny models of many families through `finetune run` and `finetune export`, and then loaded by plain Transformers."""
