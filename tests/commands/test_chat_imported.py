"""`jaxssl chat` with models of elsewhere: their own templates, against `transformers` on torch."""

import io
from typing import Any

import hf_models
import numpy as np
import pytest
import talks
import torch
import toy
import transformers

from jaxssl import cli
from jaxssl.data.tokenizer.special import with_special
from jaxssl.generate.chat import Conversation

LINES = ("the cat sees a dog", "my sister", "near a river")
SYSTEM = "You are the old man."
TOKENS = 8
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n'"
    "}}{%- if m.role == 'system' %}{{- 'Today: ' + date_string + '\n' }}{%- endif %}"
    "{{- m.content | trim + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n' }}{%- endif %}"
)
QWEN = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nNobody.<|im_end|>\n' }}"
    "{%- endif %}" + talks.PLAIN
)
DIALO = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
FAMILIES = {
    "llama, grouped": (LLAMA, HEADERS, False, 150),
    "qwen2": (QWEN, ("<|im_start|>", "<|im_end|>"), True, 100),
    "gpt2": (DIALO, (), True, 70),
}
"""The template, the special tokens that it writes, whether it has a file of its own, and a window
that holds two turns."""


@pytest.fixture(scope="module", params=FAMILIES)
def place(request, tmp_path_factory):
    """A directory as `transformers` writes it, and a run that was imported from it."""
    template, special, own_file, window = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("imported")
    tokenizer = toy.train_toy_tokenizer("byte_bpe")
    (with_special(tokenizer, special) if special else tokenizer).save(folder / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    theirs.chat_template = template
    theirs.save_pretrained(folder / "hf", save_jinja_files=own_file)
    assert (folder / "hf" / "chat_template.jinja").exists() == own_file
    ends = sorted({0, theirs.convert_tokens_to_ids(special[-1]) if special else 0})
    length = "n_positions" if request.param == "gpt2" else "max_position_embeddings"
    shape = {"vocab_size": len(theirs), length: 256, "eos_token_id": ends[0]}
    model = hf_models.reference(request.param, **shape)
    model.generation_config.eos_token_id = ends
    hf_models.save(model, folder / "hf")
    assert cli.main(["import", str(folder / "hf"), str(folder / "run")]) == 0
    return folder, window


@pytest.fixture
def talk(monkeypatch):
    """What each answer followed, and the answers."""
    prompts, made, write, ask = [], [], Conversation._write, Conversation.ask

    def noted(self, prompt, on_text):
        prompts.append(np.asarray(prompt).tolist())
        return write(self, prompt, on_text)

    def answered(*given):
        made.append(ask(*given))
        return made[-1]

    monkeypatch.setattr(Conversation, "_write", noted)
    monkeypatch.setattr(Conversation, "ask", answered)
    return prompts, made


def test_prompts_are_those_of_transformers_and_so_are_answers(place, talk, monkeypatch, capsys):
    """Greedy, with a system prompt; old turns go whole, and it is said."""
    (folder, window), (prompts, made) = place, talk
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(LINES)))
    flags = ["--system", SYSTEM, "--temperature", "0", "--tokens", str(TOKENS)]
    assert cli.main(["chat", str(folder / "run"), *flags, "--window", str(window)]) == 0
    said, told = capsys.readouterr()
    assert said == "".join(f"{answer.text}\n" for answer in made)
    assert [answer.forgotten for answer in made] == [0, 0, 1], [len(x) for x in prompts]
    assert told.count("the oldest turn is forgotten") == 1
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf")
    model = model.double().eval()
    messages, turns = [{"role": "system", "content": SYSTEM}], []
    for line, prompt, answer in zip(LINES, prompts, made, strict=True):
        turns = turns[answer.forgotten :]
        asked = {"role": "user", "content": line}
        whole = [*messages, *(m for turn in turns for m in turn), asked]
        wanted = theirs.apply_chat_template(whole, add_generation_prompt=True)["input_ids"]
        assert prompt == wanted
        written = model.generate(
            torch.tensor([wanted]), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0
        )[0, len(wanted) :].tolist()
        ends = model.generation_config.eos_token_id
        kept = written[:-1] if written[-1] in ends else written
        assert answer.text == theirs.decode(kept, skip_special_tokens=False).strip()
        assert answer.ended == (written[-1] in ends)
        turns.append([asked, {"role": "assistant", "content": answer.text}])
