import warnings
from datetime import datetime

import pytest

from workers.model.chat import ChatTemplate
from workers.model.errors import ChatTemplateError

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Où est <la> gare? \U0001f600"},
    {"role": "assistant", "content": "There."},
]
# One of each thing that real templates do.
TEMPLATE = """
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0].content %}
{%- endif %}
{{ bos_token }}{{ system }} today
{% for message in messages[1:] %}
    {% if loop.index > 5 %}{% break %}{% endif %}
    {{ message | tojson }} {{ message.role | upper }}:
    {% generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}

{% endfor %}
{% if add_generation_prompt %}
>>> {% endif %}
"""


def render(source, messages=MESSAGES, add_generation_prompt=True):
    now = datetime(2031, 5, 17)
    return ChatTemplate(source, "<s>", "</s>", lambda: now).render(messages, add_generation_prompt)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_prompts_are_those_of_transformers(add_generation_prompt):
    """
    White space, JSON, loop controls and the generation tag come out the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils.chat_template_utils import render_jinja_template

    [expected], _ = render_jinja_template(
        [MESSAGES],
        chat_template=TEMPLATE,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
    )

    assert render(TEMPLATE, MESSAGES, add_generation_prompt) == expected


def test_the_date_is_the_clock_that_was_passed_in():
    """
    Templates ask for the date with strftime_now.
    """
    assert render("{{ strftime_now('%d %B %Y') }}") == "17 May 2031"


def test_a_template_may_refuse_the_messages():
    """
    Its own words reach the caller.
    """
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "user"}], [{"role": "user", "content": None}]],
    ids=["none", "no-content", "null-content"],
)
def test_messages_that_do_not_fit_are_the_callers_error(messages):
    """
    Whatever goes wrong inside the template is one named error.
    """
    with pytest.raises(ChatTemplateError, match="refuses these messages"):
        render("{{ messages[0]['role'] + messages[0]['content'] }}", messages)


def test_a_template_cannot_reach_out_of_its_sandbox():
    """
    A template is a stranger's program: no attributes of Python's, no changes to messages.
    """
    for source in ("{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(ChatTemplateError):
            render(source)


def test_a_broken_template_is_found_before_the_first_request():
    """
    It is compiled when the model is opened.
    """
    with pytest.raises(ChatTemplateError, match="template is broken"):
        ChatTemplate("{% for %}", None, None)
