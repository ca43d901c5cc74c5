"""What a job gets that says nothing: the recipe's values, and ours where the blog's would hurt."""

from tests.api.jobs import STARCODERBASE, data_shape, job

from finetune_api.plan import plan


def test_training_follows_the_recipe():
    training = job(training={"globalBatchSize": None}).spec.training
    assert (training.method, training.sharding, training.precision) == ("full", "zero3", "auto")
    assert (training.max_sequence_length, training.micro_batch_size, training.global_batch_size, training.seed) == (1024, 4, None, 42)
    optimizer = training.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.schedule) == ("adamw", None, "cosine")
    assert (optimizer.weight_decay, optimizer.gradient_clipping) == (0.0, 1.0)
    assert (training.dropout, training.activation_checkpointing, training.log_every_steps) == (0.0, True, 1)


def test_without_epochs_and_warm_up_the_plan_takes_the_recipes():
    """3 epochs of 29 steps, of which 3 % warm up."""
    found = plan(job(), STARCODERBASE, data_shape())
    assert (found.epochs, found.total_steps, found.warmup_steps) == (3, 87, 3)


def test_everything_around_training():
    spec = job().spec
    assert (spec.template.name, spec.template.token_order, spec.template.masking) == ("auto", "blog", "assistant")
    assert (spec.model.revision, spec.model.initialization) == ("main", "pretrained")
    dataset = spec.dataset
    assert (dataset.max_invalid_rows, dataset.overlong_turns, dataset.repeated_messages) == (0, "drop", "every")
    assert (dataset.trailing_user_turns, dataset.evaluation) == ("trim", None)
    assert (spec.checkpoints.storage, spec.checkpoints.every, spec.checkpoints.keep) == (None, None, 3)
    assert (spec.evaluation.every_epochs, spec.publish.checkpoint, spec.generation.min_new_tokens) == (1, "last", 1)
    assert job(publish={"hub": {"repository": "org/name"}}).spec.publish.hub.private
