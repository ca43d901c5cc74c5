"""What other trainers call our fields: TRL and Transformers, axolotl, DeepSpeed, Kubeflow Trainer.

One table, name -> our field and how the value is carried over; None where there is nothing of the kind here. Names are looked up
without case, `_` and `-`, so snake_case and camelCase are one. Only the words of an error come from it: no other name is ever accepted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Foreign:
    """`ours`: path of our field below spec, None for none. `how`: what becomes of the value, or why there is no such field."""

    ours: str | None
    how: str = ""

    def remedy(self, value: object) -> str:
        """What to do with the key and its value."""
        if self.ours is None:
            return f"{self.how}; remove it"
        how = self.how.replace("{value}", str(value) if isinstance(value, int | float | str) else "its value")
        return f"here it is spec.{self.ours}" + (f": {how}" if how else "")


def plain(name: str) -> str:
    """The name without case, `_` and `-`.

    >>> plain("per_device-trainBatchSize")
    'perdevicetrainbatchsize'
    """
    return name.replace("_", "").replace("-", "").lower()


def foreign(name: str, section: str | None = None) -> Foreign | None:
    """What other trainers call so; with `section`, the last key above it, only what is said of the name there."""
    return _NAMES.get(plain(name) if section is None else f"{plain(section)}.{plain(name)}")


# Names, one or more lines, then indented our field below spec (`-` for none) and, after `: `, the value's translation or the reason.
# A name after a key and a dot means that below this key only.
TABLE: Final = """
# model
base_model model_name_or_path model_name pretrained_model_name_or_path model_id model.path model.id model.repo model.repository model.base
    model.name
base_model_config tokenizer_config tokenizer tokenizer_name tokenizer_type tokenizer_name_or_path processor_type
    -: configuration and tokenizer are those of model.name
model_revision base_model_revision revision_of_model
    model.revision
model_type is_llama_derived_model model.type
    -: the architecture is read from the model's config.json
model_init_kwargs overrides_of_model_config
    -: the model is built as its config.json says
trust_remote_code
    -: code from a model's repository is never run
hf_use_auth_token use_auth_token hf_token
    model.tokenSecret: name a Secret that holds the token, never the token
load_in_4bit quantization_config bnb_config_kwargs quantization
    training.method: qlora keeps the base's layers in 4 bits and trains adapters beside them
load_in_8bit gptq
    -: of quantised weights, training knows those of 4 bits alone, with training.method: qlora
# data
datasets dataset_mixture train_dataset
    dataset.sources: a list whose items have path, split, format
dataset_name dataset_path dataset_id data_path dataset_name_or_path train_file
    dataset.sources[].path
dataset.name dataset.id dataset.repo sources.dataset sources.id sources.repo sources.url sources.file
    dataset.sources[].path
sources.name
    dataset.sources[].path: a file, a folder or a Hub data set; the configuration of one, which others call name, is
    dataset.sources[].config
sources.subset sources.config_name
    dataset.sources[].config
dataset_config dataset_config_name
    dataset.sources[].config
data_files data_dir sources.files
    dataset.sources[].path: a file or folder (./x, /x, s3://bucket/key); a source each
dataset_train_split train_split
    dataset.sources[].split
dataset_test_split eval_dataset test_datasets eval_split validation_split
    dataset.evaluation.split
val_set_size test_size eval_size validation_size
    dataset.evaluation.fraction: a share such as 0.05, taken by conversation
sources.type dataset_type dataset_format sources.conversation
    dataset.sources[].format: chat_template and messages are format: messages; sharegpt, alpaca and oasst keep their names
type
    dataset.sources[].format
ds_type
    -: the kind of a file is told by its suffix
message_field_role
    dataset.sources[].messagePropertyMappings.role
message_field_content
    dataset.sources[].messagePropertyMappings.content
message_field_training
    dataset.sources[].messagePropertyMappings.train
message_field_training_detail roles_to_train_detail
    -: a message is learnt or not; parts of it can't be chosen
message_property_mapping message_mappings message_properties
    dataset.sources[].messagePropertyMappings: keys role, content, reasoning_content, tool_calls, name, train in camelCase
sources.role_mapping sources.role_map sources.role_names
    dataset.sources[].roles: lists of names by role, such as assistant: [gpt, bot]
field_human field_model user_role assistant_role
    dataset.sources[].roles: lists of names by role, such as assistant: [gpt, bot]
field_thinking template_thinking_key split_thinking
    dataset.sources[].messagePropertyMappings.reasoningContent
drop_system_message
    -: a system message is part of what is learnt from; remove it from the rows
field_tools
    dataset.sources[].columns.tools
field_messages messages_field
    dataset.sources[].columns.messages
field_instruction instruction_column prompt_column
    dataset.sources[].columns.prompt
field_input
    dataset.sources[].columns.context
field_output output_column response_column completion_column
    dataset.sources[].columns.completion
field_system system_column
    dataset.sources[].columns.system
probabilities mixture_weights
    dataset.sources[].weight: a source each; 0.5 uses half of it
max_samples max_train_samples num_samples n_samples
    dataset.sources[].limit
sources.shards
    dataset.sources[].weight: a share of the rows: 1 / {value} for one of that many shards
sources.shards_idx sources.preprocess_shards
    -: rows are drawn by dataset.sources[].weight, a share of them, and not taken by shard
dataset_num_proc preprocessing_num_workers dataset_processes num_proc
    dataset.processes
dataset_prepared_path dataset_cache_dir overwrite_cache
    -: prepared data is kept with the checkpoints and found again by its digest
dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_drop_last remove_unused_columns group_by_length
length_column_name dataset_keep_in_memory streaming
    -: rows are read from memory-mapped files, packed beforehand
shuffle_merged_datasets curriculum_sampling data_seed shuffle_seed
    training.seed: it also decides the order of the data
strict
    -: a key that a job doesn't have is always refused
skip_prepare_dataset dataset_kwargs
    -: data is always prepared from its rows
excess_length_strategy truncation truncation_mode
    dataset.overlongTurns
# template
chat_template prompt_template template.type
    template.name: tokenizer_default is model, chatml and alpaca keep their names, a text of your own is jinja with template.jinja; other
    names are model where the tokenizer has that template
chat_template_jinja chat_template_path
    template.jinja: the text itself, with template.name: jinja
chat_template_kwargs
    template.variables
default_system_message system_prompt system_message
    template.systemText
train_on_inputs completion_only_loss assistant_only_loss train_on_responses_only roles_to_train train_on_prompt mask_inputs
    template.masking: assistant learns the answers only (train_on_inputs: false), which is the default; all learns every token
    (train_on_inputs: true)
train_on_last_turn_only last_turn_only mask_history
    template.masking: last_assistant
train_on_eos train_on_eot eot_tokens
    -: the end token of each learnt answer is learnt, and no other
special_tokens added_tokens additional_special_tokens tokens_to_add
    template.tokens: the four control tokens of template: {name: custom}; others come with the model's tokenizer
bos_token eos_token pad_token unk_token
    -: it is the tokenizer's own
dataset_text_field text_field text_column field
    dataset.sources[].columns.text: with format: text, which learns documents as they are
# training
sequence_len max_seq_length max_seq_len max_length seq_length block_size model_max_length cutoff_len
    training.maxSequenceLength
gradient_accumulation_steps
    training.globalBatchSize: rows per optimizer step = training.microBatchSize x {value} accumulation steps x the number of workers
train_batch_size batch_size total_batch_size
    training.globalBatchSize: rows per optimizer step, over all workers
per_device_train_batch_size train_micro_batch_size_per_gpu per_gpu_train_batch_size per_device_batch_size
    training.microBatchSize: rows per worker and micro-step; rows per optimizer step are training.globalBatchSize
auto_find_batch_size
    training.microBatchSize: `finetune plan` says what fits
num_train_epochs num_epochs n_epochs max_epochs
    training.epochs: a whole number; for a part of an epoch give training.maxSteps
total_steps num_steps max_train_steps train_steps num_training_steps training.steps spec.steps
    training.maxSteps
learning_rate lr
    training.optimizer.learningRate
lr_scheduler_type lr_scheduler lr_schedule learning_rate_schedule
    training.optimizer.schedule: cosine, linear, constant or wsd
scheduler
    training.optimizer.schedule: cosine, linear, constant or wsd
cosine_min_lr_ratio min_lr_ratio min_lr_rate
    training.optimizer.minimumLearningRateRatio
min_lr
    training.optimizer.minimumLearningRateRatio: as a share of the peak
num_decay_steps decay_steps decay_fraction
    training.optimizer.decayRatio: as a share of all steps, with schedule: wsd
lr_scheduler_kwargs cosine_constant_lr_ratio lr_quadratic_warmup
    -: schedules have no settings but warm-up, decayRatio and minimumLearningRateRatio
warmup_ratio
    training.optimizer.warmupRatio
warmup_steps num_warmup_steps warmup_num_steps
    training.optimizer.warmupSteps
weight_decay
    training.optimizer.weightDecay
max_grad_norm gradient_clipping grad_clip gradient_clip_val clip_grad_norm
    training.optimizer.gradientClipping
adam_beta1
    training.optimizer.beta1
adam_beta2
    training.optimizer.beta2
betas adam_betas
    training.optimizer.beta1: and training.optimizer.beta2
adam_epsilon eps
    training.optimizer.epsilon
optim optimizer optimizer_type optimizer.type optimizer.kind
    training.optimizer.name: adamw, or adamw8bit with one worker; its settings stand beside it
optim_args optim_target_modules optimizer.params
    -: AdamW's settings are the fields of spec.training.optimizer
bf16 bfloat16 fp32 amp torch_dtype dtype mixed_precision half_precision_backend
    training.precision: auto takes bf16 where the hardware is fast at it; bf16, fp16 and fp32 are the others
fp16 float16
    training.precision: auto takes bf16 where the hardware is fast at it; fp16, with losses scaled, is for GPUs without bf16
tf32
    training.tf32
gradient_checkpointing activation_checkpointing enable_gradient_checkpointing
    training.activationCheckpointing
gradient_checkpointing_kwargs activation_offloading
    training.activationCheckpointing: true or false, without settings
seed random_seed
    training.seed
logging_steps log_every_n_steps logging_interval
    training.logEverySteps
report_to logging_integrations
    reportTo: a list of tensorboard, wandb and mlflow
use_wandb wandb use_mlflow mlflow use_tensorboard
    reportTo: add it to the list
wandb_project wandb_entity wandb_mode mlflow_tracking_uri mlflow_experiment_name
    cpuPods.env: as the variable of that name in capitals, and name it in reportTo
logging_strategy logging_first_step logging_dir log_level wandb_name wandb_run_id wandb_watch wandb_log_model tensorboard_dir
comet_api_key run_name disable_tqdm include_num_input_tokens_seen
    -: metrics go to the run folder, to status, to Prometheus and to what reportTo names
sample_packing packing packing_strategy eval_sample_packing eval_packing pad_to_sequence_len padding_free pad_to_multiple_of
multipack_real_batches padding
    -: rows are always packed, each dialogue apart from its neighbours, and padding is never computed
flash_attention attn_implementation flash_attn xformers_attention sdp_attention s2_attention use_flash_attention_2 eager_attention
flex_attention use_liger_kernel use_liger unsloth sage_attention
    -: attention is chosen for the model and the hardware
torch_compile use_torch_compile torch_compile_backend torch_compile_mode
    -: the step is not compiled by torch.compile
adapter peft use_peft finetuning_type peft_type
    training.method: lora trains adapters, qlora those beside a base in 4 bits, full all parameters
peft_config lora_config
    training.lora: PEFT's own keys stand directly below it, with training.method: lora
lora_r lora_rank r lora.rank training.rank
    training.lora.r: {value}, with training.method: lora
lora_alpha lora.alpha training.alpha
    training.lora.lora_alpha: {value}, with training.method: lora
lora_dropout lora.dropout
    training.lora.lora_dropout: {value}, with training.method: lora
lora_target_modules target_modules
    training.lora.target_modules: a list of names, or [all-linear], with training.method: lora
lora_target_linear
    training.lora.target_modules: [all-linear] is the default
lora_modules_to_save modules_to_save
    training.lora.modules_to_save: a list of names, with training.method: lora
use_dora peft_use_dora
    training.lora.use_dora: with training.method: lora
use_rslora peft_use_rslora
    training.lora.use_rslora: with training.method: lora
lora_model_dir
    -: training begins with new adapters; merge others into a model and name that in model.name
lora_fan_in_fan_out lora_bias lora_task_type fan_in_fan_out bias task_type init_lora_weights peft_init_lora_weights layers_to_transform
layers_pattern rank_pattern alpha_pattern exclude_modules trainable_token_indices lora_layers_to_transform peft_layers_to_transform
    -: is not among the LoRA settings of this version; rows of new control tokens are always trained
loraplus_lr_ratio loraplus_lr_embedding
    -: all adapters have one learning rate, training.optimizer.learningRate
unfrozen_parameters freeze freeze_layers trainable_layers
    -: all parameters are trained
neftune_noise_alpha noisy_embedding_alpha label_smoothing_factor label_smoothing
    -: noise and smoothing are not available in this version
rl dpo_beta reward_model loss_type kl_coef
    -: reinforcement and preference learning are not what this is for
hidden_dropout dropout_rate resid_pdrop embd_pdrop
    training.dropout
attention_dropout attn_pdrop
    training.attentionDropout
resume_from_checkpoint auto_resume_from_checkpoints overwrite_output_dir
    -: a run always goes on from its newest checkpoint, and a changed job is another run
do_train do_eval do_predict
    -: a job trains, and evaluates when spec.dataset.evaluation is given
fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap ddp ddp_find_unused_parameters ddp_timeout tensor_parallel_size
pipeline_parallel_size context_parallel_size sequence_parallel_degree accelerator_config
    -: ZeRO-3 partitions the model: spec.training.deepspeed takes its settings
# DeepSpeed
zero_optimization deepspeed_config deepspeed_plugin
    training.deepspeed: keys of zero_optimization stand directly below it
deepspeed
    training.deepspeed: keys of zero_optimization, written out in the job
stage zero_stage zero
    training.sharding: zero3 is stage 3, zero2 stage 2; stage 1 is not available in this version
offload_optimizer offload_optimizer_device cpu_offload
    training.deepspeed.offload_optimizer: write offload_optimizer: {device: cpu}
offload_param offload_param_device
    training.deepspeed.offload_param: write offload_param: {device: cpu}, with zero3
nvme_path
    -: offloading goes to the host's memory, not to NVMe
deepspeed.optimizer
    training.optimizer
deepspeed.scheduler
    training.optimizer.schedule: cosine, linear, constant or wsd
stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save zero_allow_untested_optimizer
zero_force_ds_cpu_optimizer wall_clock_breakdown steps_per_print allgather_partitions allgather_bucket_size reduce_scatter
round_robin_gradients communication_data_type data_types prescale_gradients flops_profiler zero_quantized_weights
zero_hpz_partition_size
    -: is not among the DeepSpeed settings of this version
# checkpoints
save_steps checkpoint_every save_interval
    checkpoints.every.steps: write checkpoints: {every: {steps: {value}}}; absent, the interval is automatic, and one is always saved at the
    end
save_strategy saves_per_epoch checkpointing_steps checkpoints.interval
    checkpoints.every: seconds or steps between checkpoints; absent, the interval is automatic, and one is always saved at the end
save_total_limit max_checkpoints keep_checkpoints checkpoints_total_limit
    checkpoints.keep
checkpoint_dir checkpoint_path checkpoints_dir checkpoints.path checkpoints.dir checkpoints.url checkpoints.bucket checkpoints.s3
    checkpoints.storage
save_safetensors save_only_model save_on_each_node save_checkpoints
    -: checkpoints hold weights and optimizer state; safetensors come with the export
load_best_model_at_end metric_for_best_model greater_is_better
    publish.checkpoint: best is the one with the lowest evaluation loss
# evaluation
eval_steps evaluation.steps eval_every_steps eval_interval
    evaluation.everySteps: optimizer steps; step 0 and the last step are always evaluated
evals_per_epoch eval_strategy evaluation_strategy eval_frequency eval_on_start eval_delay evaluation.every evaluation.epochs
    evaluation.everyEpochs: in epochs, or evaluation.everySteps in steps; step 0 and the last step are always evaluated
per_device_eval_batch_size eval_batch_size per_gpu_eval_batch_size
    evaluation.microBatchSize
bf16_full_eval fp16_full_eval eval_accumulation_steps
    -: evaluation computes as training does
early_stopping_patience early_stopping
    evaluation.earlyStopping.patience: evaluations in a row that were no better; publish.checkpoint: best takes the best checkpoint
early_stopping_threshold early_stopping_min_delta
    evaluation.earlyStopping.minDelta
benchmarks benchmark tasks do_bench_eval bench_dataset eval_tasks
    evaluation.tasks: a list of names, as `finetune evaluate --tasks list` has them
num_fewshot few_shot n_shot shots
    evaluation.numFewshot
judge judge_model
    evaluation.judge: baseUrl, model and apiKeySecret of an OpenAI-compatible endpoint
eval_table_size eval_sample_generations
    evaluation.samples.count
eval_max_new_tokens
    evaluation.samples.maxNewTokens
# generation
generation.max_length max_tokens max_new_tokens
    generation.maxNewTokens
generation.min_length min_new_tokens min_tokens
    generation.minNewTokens
do_sample generation.num_beams
    generation.temperature: 0 is greedy, above it answers are drawn
# publication
output_dir output publish.path directory.name
    publish.directory.path: a folder for the trained model; checkpoints go to checkpoints.storage
hub_model_id repo_id hub_repo_id hub.repo hub.name hub.model_id hub.id publish.repo publish.name
    publish.hub.repository
push_to_hub
    publish.hub: a job with publish: {hub: {repository: org/name}} publishes there
hub_private_repo
    publish.hub.private
hub_token push_to_hub_token
    publish.hub.tokenSecret: name a Secret that holds the token, never the token
hub_revision
    publish.hub.revision
hub_strategy hub_always_push push_to_hub_organization
    publish.hub: the model is published when training is done
# workers
num_nodes nnodes num_machines workers.replicas worker_replicas num_workers
    workers.nodes: worker pods, one a node; workers are nodes x gpusPerNode
num_proc_per_node nproc_per_node num_gpus gpus gpu n_gpu num_processes gpus_per_worker gpu_count devices
    workers.gpusPerNode: one process a GPU
min_replicas elastic_policy max_nodes
    workers.minNodes: the fewest nodes that a job goes on with; workers.nodes is the most
resources_per_node resources_per_worker
    workers.resources
local_rank master_addr master_port rdzv_backend rank
    -: ranks are set by the driver
runtime_ref trainer initializer pod_template_overrides pytorch_replica_specs run_policy training_runtime
    -: a FineTuneJob says what to train, and not which pods: its sections are model, dataset, training, workers
backoff_limit max_restarts
    failurePolicy.maxFailures
clean_pod_policy
    -: pods are removed when an attempt ends
gpu_type accelerator_type
    workers.accelerator
image_pull_secrets
    -: the service account of workers.serviceAccountName brings them
"""


def entries(table: str) -> Iterator[tuple[str, Foreign]]:
    """Each name of the table, with a key and a dot where it is said of this key only, and what it means."""
    text = re.sub(r"(?m)^#.*\n", "", table.strip() + "\n")
    for names, meaning in re.findall(r"((?:^\S.*\n)+)((?:^ .*\n)+)", text, re.MULTILINE):
        ours, _, how = " ".join(meaning.split()).partition(": ")
        yield from ((name, Foreign(None if ours == "-" else ours, how)) for name in names.split())


_NAMES: Final = {".".join(map(plain, name.split("."))): meaning for name, meaning in entries(TABLE)}

# Values that other trainers know, by our field: what is said instead of a like one of ours.
VALUES: Final[dict[str, dict[str, str]]] = {
    "method": {
        "4bit": "use qlora",
        "dora": "use lora with training.lora.use_dora: true",
        "adapter": "use lora",
    },
    "sharding": {
        "zero1": "zero1 is not available in this version; use zero2",
        "fsdp": "ZeRO-3 partitions what FSDP does; use zero3",
    },
    "schedule": {
        "constantwithwarmup": "use constant, with which warmupRatio and warmupSteps act too",
        "cosinewithrestarts": "restarts are not available; use cosine",
        "cosinewithminlr": "use cosine with minimumLearningRateRatio",
        "warmupstabledecay": "use wsd",
    },
    "precision": {"float16": "use fp16, or auto, which takes bf16 where the hardware is fast at it"},
    "format": {
        "chattemplate": "chat_template of axolotl is format: messages; use messages",
        "conversational": "use messages",
        "completion": "completion of axolotl, which learns documents as they are, is format: text; a prompt and its completion are "
        "format: prompt-completion; use one of them",
    },
}
