"""Chat templates: rendered as transformers renders them, and one clear error if they cannot be."""

import importlib.util
import subprocess
import sys
from datetime import datetime

import pytest
import small_models
from speaker import IDS, speaker

import quantreg
from quantreg import ModelError
from quantreg.inference import chat

MESSAGES = [
    {"role": "system", "content": "Be <brief> & \"kind\"."},
    {"role": "user", "content": "Grüße 😀"},
]  # fmt: skip
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
METADATA = {
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<pad>"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
        "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>system\nBe <brief> & \"kind\".<|im_end|>\n<|im_start|>user\nGrüße 😀<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "blocks leave no line": (
        "{{ bos_token }}\n{%- for message in messages %}\n"
        "    {%- if message.role == 'user' %}\n    [{{ message.content }}]\n"
        "    {% endif %}\n{% endfor %}\nend{{ eos_token }}",
        "<s>    [Grüße 😀]\nend</s>",
    ),
    "tojson leaves HTML alone": (
        "{{ messages[0] | tojson }}\n{{ {'b': 1, 'a': [1]} | tojson(indent=2, sort_keys=true) }}",
        '{"role": "system", "content": "Be <brief> & \\"kind\\"."}\n{\n  "a": [\n    1\n  ],\n  "b": 1\n}',
    ),
    "loop controls": (
        "{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}{{ message.role }}"
        "{% break %}{% endfor %}",
        "user",
    ),
    "generation": (
        "{% set x = 'a' %}{% generation %}{{ messages[1].content }}{% set x = 'b' %}{% endgeneration %}{{ x }}",
        "Grüße 😀a",
    ),
    "the date": ("{{ strftime_now('%Y') }}", datetime.now().strftime("%Y")),
    "what is absent": (
        "{{ unk_token }}|{% if tools is none %}no tools{% endif %}|{% if not documents %}no documents{% endif %}|"
        "{{ 'thinking' if enable_thinking is defined else 'plain' }}",
        "|no tools|no documents|plain",
    ),
    "namespaces and methods": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}"
        "{{ ns.n }} {{ messages[1]['content'].split(' ')[-1].strip() }} {{ messages | selectattr('role', 'equalto', "
        "'user') | map(attribute='content') | join }}",
        "27 😀 Grüße 😀",
    ),
}  # fmt: skip


def rendered(template, messages=MESSAGES, **options):
    return chat.prompt({**METADATA, "tokenizer.chat_template": template}, messages, **options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered(name):
    template, expected = TEMPLATES[name]
    assert rendered(template) == expected


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_transformers_renders_the_same(name, answer):
    from transformers.utils.chat_template_utils import render_jinja_template

    template = TEMPLATES[name][0]
    theirs, _ = render_jinja_template(
        conversations=[MESSAGES], chat_template=template, add_generation_prompt=answer, **TOKENS
    )
    assert rendered(template, answer=answer) == theirs[0]


def test_the_answer_of_the_model_begins_at_the_end_or_not():
    template = TEMPLATES["chatml"][0]
    assert rendered(template) == rendered(template, answer=False) + "<|im_start|>assistant\n"


def test_a_template_may_refuse_messages():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}"
    with pytest.raises(ModelError, match="refuses the messages: no system messages here"):
        rendered(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "no valid Jinja template: line 1: Expected"),
        ("{{ nothing.at_all }}", "fails: UndefinedError"),
        ("{{ 1 + 'a' }}", "fails: TypeError"),
        ("{{ ''.__class__.__mro__ }}", "fails: SecurityError"),
        ("{{ messages.append(1) }}", "fails: SecurityError"),
        ("", "no chat template"),
        (None, "no chat template"),
        (7, "no chat template"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_clear_error(template, message):
    with pytest.raises(ModelError, match=message):
        rendered(template)


def test_a_template_does_not_change_the_messages():
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(ModelError):
        rendered("{{ messages[0].update(content='b') }}", messages)
    assert messages == [{"role": "user", "content": "a"}]


def test_without_jinja2_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from quantreg.inference.chat import prompt\n"
        "prompt({'tokenizer.chat_template': 'a'}, [])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith('which is not installed: pip install "jinja2>=3.1.6"')


@pytest.mark.parametrize("old", ["2.11.3", "3.1.5"])
def test_a_jinja2_that_holds_no_hostile_template_back_is_refused(monkeypatch, old):
    import jinja2

    monkeypatch.setattr(jinja2, "__version__", old)
    with pytest.raises(ModelError, match=r"3\.1\.6"):
        rendered(f"{{# not yet compiled, {old} #}}")


def test_a_conversation_has_one_bos_and_its_special_tokens(tmp_path):
    for name, template in (("with", "{{ bos_token }}"), ("without", "")):
        path = tmp_path / f"{name}.gguf"
        small_models.write(speaker("<s>", "a", template=template + "a{{ messages[0].content }}<|end|>b"), path)
        with quantreg.load(path) as model:
            ids = model.tokenize_chat([{"role": "user", "content": "c"}])
        assert ids[0] == IDS["<s>"]
        assert ids.count(IDS["<s>"]) == 1
        assert ids.count(IDS["<|end|>"]) == 1
