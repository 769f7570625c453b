"""SGLang's own frontend language, installed as its users have it, drives a running instance."""

import math

import pytest
import sglang

from tests.e2e.instance import RunningInstance

pytestmark = pytest.mark.slow

CHOICES = ["red", "blue", "green"]
METHODS = {
    "length": sglang.token_length_normalized,
    "greedy": sglang.greedy_token_selection,
    "unconditional": sglang.unconditional_likelihood_normalized,
}


@pytest.fixture(name="backend", scope="module")
def _backend(tiny_llama):
    with RunningInstance(
        "--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1",
        "--dp-size", "2", "--load-balance-method", "slack_affinity", "--dtype", "float32",
    ) as instance:  # fmt: skip
        yield sglang.RuntimeEndpoint(instance.url)


@sglang.function
def answer(s, question, max_tokens=6):
    s += "Q: " + question + "\nA:"
    s += sglang.gen("answer", max_tokens=max_tokens, temperature=0, ignore_eos=True)


@sglang.function
def forked(s, question):
    s += question
    forks = s.fork(2)
    for fork, side in zip(forks, ("left", "right"), strict=True):
        fork += " On the " + side + ":"
        fork += sglang.gen("view", max_tokens=4, temperature=0, ignore_eos=True)
    s += forks[0]["view"] + forks[1]["view"]
    s += sglang.gen("end", max_tokens=3, temperature=0, ignore_eos=True)


@sglang.function
def scored(s, text):
    s += text
    s += sglang.gen(
        "out", max_tokens=3, temperature=0, ignore_eos=True, return_logprob=True,
        logprob_start_len=0, top_logprobs_num=2, return_text_in_logprobs=True,
    )  # fmt: skip


@sglang.function
def chosen(s, method):
    s += "The sky is "
    s += sglang.select("colour", CHOICES, choices_method=METHODS[method])


def test_a_program_generates_and_its_figures_add_up(backend):
    """
    What the frontend asked first has told it the model's name.
    """
    state = answer.run(question="How far is it?", backend=backend)

    told = state.get_meta_info("answer")
    assert backend.get_model_name() == "tiny"
    assert state["answer"]
    assert state.text() == "Q: How far is it?\nA:" + state["answer"]
    assert told["completion_tokens"] == 6
    assert told["cached_tokens"] + told["computed_tokens"] == told["prompt_tokens"]


def test_a_stream_has_the_text_of_the_whole_answer(backend):
    """
    In however many pieces it comes.
    """
    whole = answer.run(question="Where to?", max_tokens=12, backend=backend)
    pieces = [*answer.run(question="Where to?", max_tokens=12, stream=True, backend=backend)
              .text_iter("answer")]  # fmt: skip

    assert "".join(pieces) == whole["answer"]


def test_programs_in_a_batch_do_not_mix(backend):
    """
    Each gets what it would get alone.
    """
    questions = [f"Number {i}?" for i in range(6)]
    alone = [answer.run(question=q, backend=backend)["answer"] for q in questions]

    states = answer.run_batch([{"question": q} for q in questions], num_threads=3, backend=backend)

    assert [state["answer"] for state in states] == alone


def test_forks_go_on_from_the_same_text(backend):
    """
    And what they wrote can be put together again; a second run writes the same.
    """
    states = [forked.run(question="Look around. " * 12, backend=backend) for _ in range(2)]

    assert states[0]["end"]
    assert states[0].text() == states[1].text()
    assert states[1].get_meta_info("end")["cached_tokens"] > 0


def test_log_probabilities_are_of_the_whole_text(backend):
    """
    As many as tokens, with the tokens' texts, the best two first.
    """
    state = scored.run(text="Nothing is in vain.", backend=backend)

    told = state.get_meta_info("out")
    inputs, outputs = told["input_token_logprobs"], told["output_token_logprobs"]
    assert (len(inputs), len(outputs)) == (told["prompt_tokens"], 3)
    assert "".join(text for _, _, text in inputs) == "Nothing is in vain."
    assert inputs[0][0] is None
    assert all(logprob < 0 for logprob, _, _ in [*inputs[1:], *outputs])
    for (logprob, token_id, _), best in zip(outputs, told["output_top_logprobs"], strict=True):
        assert best[0][:2] == [logprob, token_id], "greedy: the first of the best was taken"


@pytest.mark.parametrize("method", METHODS)
def test_a_choice_is_made_by_log_probabilities(backend, method):
    """
    By each of the frontend's methods; the last one scores the choices without the text, too.
    """
    state = chosen.run(method=method, backend=backend)

    told = state.get_meta_info("colour")
    scores = told["normalized_prompt_logprobs"]
    assert state["colour"] in CHOICES
    assert len(scores) == 3
    assert all(math.isfinite(score) and score < 0 for score in scores)
    if method == "length":
        assert state["colour"] == CHOICES[scores.index(max(scores))]
    if method == "unconditional":
        lengths = [len(tokens) for tokens in told["input_token_logprobs"]]
        assert [len(tokens) for tokens in told["unconditional_token_logprobs"]] == lengths
