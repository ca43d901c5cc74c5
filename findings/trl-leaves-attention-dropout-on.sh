#!/usr/bin/env bash
# TRL's DPOConfig(disable_dropout=True), its default, leaves the dropout of attention on for GPTBigCode (StarCoder, 0.1 by default).
#
# Guess: with dropout disabled, a policy and the reference that is its copy give the same numbers, and DPO's first loss is ln 2 exactly.
# Seen (TRL 1.16.0, Transformers 5.23.0): TRL sets p of each torch.nn.Dropout to 0; the attention of this family keeps its rate as a number,
# which it hands to the attention function in training. The first loss isn't ln 2; it is with attn_pdrop=0 in the model's config, and
# for a Llama, whose attention_dropout is 0 by default.
source "$(dirname "$0")/_common"
environment env trl==1.16.0 transformers==5.23.0 torch==2.13.0 tokenizers datasets accelerate
expect "$("$work/env/bin/python" - "$work" 2>/dev/null <<'PYTHON'
import math
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

sys.stdout = sys.stderr  # the trainers print their figures
words = ["<pad>", "<end>", *(f"w{number}" for number in range(62))]
plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<end>")
row = {"prompt": " ".join(words[2:20]), "chosen": " ".join(words[20:40]), "rejected": " ".join(words[40:60])}
shape = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
big = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, **shape}
llama = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, **shape}
for name, kind, config in (
    ("GPTBigCode", GPTBigCodeForCausalLM, GPTBigCodeConfig(**big)),
    ("GPTBigCode, attn_pdrop=0", GPTBigCodeForCausalLM, GPTBigCodeConfig(attn_pdrop=0.0, **big)),
    ("Llama", LlamaForCausalLM, LlamaConfig(**llama)),
):
    torch.manual_seed(0)
    folder = f"{sys.argv[1]}/{name.split(',')[0]}-{len(name)}"
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = DPOConfig(
        output_dir=f"{folder}/out", max_steps=1, per_device_train_batch_size=4, logging_steps=1, report_to="none", save_strategy="no",
        use_cpu=True, bf16=False, disable_tqdm=True, seed=1,
    )
    trainer = DPOTrainer(model=folder, args=settings, train_dataset=Dataset.from_list([row] * 4), processing_class=tokenizer)
    rates = {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}
    trainer.train()
    [loss] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    exact = abs(loss - math.log(2)) < 1e-6
    print(f"{name}: disable_dropout {settings.disable_dropout}, torch.nn.Dropout {sorted(rates)}, first loss is ln 2: {exact}", file=sys.__stdout__)
PYTHON
)" "GPTBigCode: disable_dropout True, torch.nn.Dropout [0], first loss is ln 2: False
GPTBigCode, attn_pdrop=0: disable_dropout True, torch.nn.Dropout [0], first loss is ln 2: True
Llama: disable_dropout True, torch.nn.Dropout [], first loss is ln 2: True"
