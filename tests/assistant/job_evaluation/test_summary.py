"""What a pod says of an evaluation fits its status, whatever tasks and places are called."""

from finetune_api.evaluation_summary import LONGEST_NAME, EvaluationSummary, TaskSummary
from finetune_api.pod_result import LARGEST_MESSAGE, PodResult, parse_pod_result
from finetune_assistant.job_evaluation.summary import result_of


def test_names_and_places_that_a_summary_holds_fit_a_status() -> None:
    """Members of groups and metrics have the names that a file of lm-eval gives them, longer than any that a job may write."""
    long = TaskSummary(task="t" * LONGEST_NAME, metric="m" * LONGEST_NAME, value=0.5, shots=0, documents=1, documents_there=1)
    summary = EvaluationSummary(digest="d" * 64, step=4, base_model="base", tasks=(long, *[long] * 20))
    result = PodResult(outcome="Done", evaluation=result_of(summary, "s3://bucket/" + "p" * 1024 + "/evaluation/" + "d" * 64))
    text = result.to_termination_message()
    assert len(text.encode()) <= LARGEST_MESSAGE
    found = parse_pod_result(text)
    assert found is not None
    assert found.evaluation is not None
    assert found.evaluation.tasks[0].task.startswith("ttt")
