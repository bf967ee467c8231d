"""The recipes of configs/objectives: each says where it is from, loads, holds together, and has the
size that was published. Nothing is compiled, and no array is made."""

import dataclasses
import json
import math
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from jaxssl.core.config import read_yaml
from jaxssl.core.names import flatten
from jaxssl.core.types import Vocabulary
from jaxssl.models.layers import unbox
from jaxssl.models.model import check_length
from jaxssl.run.build import fitted
from jaxssl.run.networks import check_untrained, inits, make_model, with_networks
from jaxssl.run.recipes import load_config
from jaxssl.transfer.start import open_starts

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "objectives").glob("*.yaml"))
ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
MARKS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", *(f"<extra_id_{i}>" for i in range(100)))
EXAMPLES = 1_000_000
"""Rows of an epoch, for recipes that count epochs."""

GENERATOR_SHARES = (30522 + 512 + 2 + 2) * 128, (30522 + 512 + 2 + 2) * 768
"""Of the embeddings and their norm, which ELECTRA's generators have in common with what they
teach."""
PUBLISHED = {
    # As `transformers` counts the released models, whose configurations are theirs.
    "electra-small": {
        "body + replaced_tokens": 13_549_057,  # google/electra-small-discriminator
        "generator": 13_546_682 - GENERATOR_SHARES[0],  # google/electra-small-generator
    },
    "electra-base": {
        "body + replaced_tokens": 109_483_009,  # google/electra-base-discriminator
        "generator": 33_740_602 - GENERATOR_SHARES[1],  # google/electra-base-generator
    },
    "roberta-base": {"body + masked_lm": 124_697_433},  # FacebookAI/roberta-base
    "distilbert": {"body + masked_lm": 66_985_530},  # distilbert/distilbert-base-uncased
    "spanbert-base": {"body": 108_310_272 - 590_592},  # SpanBERT/spanbert-base-cased, no pooler
    "contriever-base": {"body": 109_482_240 - 590_592},  # facebook/contriever, no pooler
    "simcse-bert-base": {"body + projection": 109_482_240},  # princeton-nlp/unsup-simcse-bert-base
    "tsdae-base": {"body": 109_482_240 - 590_592},  # google-bert/bert-base-uncased, no pooler
    # google-research/bert, without heads.
    "bert-large-whole-word": {"body": 335_141_888},
    "bart-base": {"body + causal_lm": 139_420_416},  # facebook/bart-base
    "t5-1.1-small": {"body + causal_lm": 76_961_152},  # google/t5-v1_1-small
    "t5-1.1-base": {"body + causal_lm": 247_577_856},  # google/t5-v1_1-base
}
PLACES = ("attention.self.query", "attention.self.key", "attention.self.value")
SMALL = [path for path in RECIPES if path.stem.endswith("-docstrings")]
"""Those that learn in minutes; some start from what another one made."""


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """What recipes start from, by what they call it: models as the hub has them, without their
    tokenizers; files of the whole size, all of it a hole but for the header."""
    hub = tmp_path_factory.mktemp("hub")
    return {
        "models/bert-base-uncased": write_holes(hub / "bert-base", *bert(768, 12, 30522, 512)),
        "runs/bert-docstrings": write_holes(hub / "bert-small", *bert(128, 2, 4096, 64)),
        "runs/gpt-docstrings": write_holes(hub / "gpt-small", *gpt2(128, 2, 4096, 64)),
    }


def dense(name, rows, columns):
    return {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}


def norm(name, size):
    return {f"{name}.weight": [size], f"{name}.bias": [size]}


def bert(H, layers, V, P):
    """A BERT's `config.json`, and the shapes of its tensors."""
    tables = {"word": V, "position": P, "token_type": 2}
    shapes = {f"bert.embeddings.{name}_embeddings.weight": [n, H] for name, n in tables.items()}
    shapes |= norm("bert.embeddings.LayerNorm", H)
    for layer in (f"bert.encoder.layer.{number}" for number in range(layers)):
        for place in (*PLACES, "attention.output.dense"):
            shapes |= dense(f"{layer}.{place}", H, H)
        shapes |= norm(f"{layer}.attention.output.LayerNorm", H)
        shapes |= norm(f"{layer}.output.LayerNorm", H)
        shapes |= dense(f"{layer}.intermediate.dense", 4 * H, H)
        shapes |= dense(f"{layer}.output.dense", H, 4 * H)
    shapes |= dense("bert.pooler.dense", H, H) | dense("cls.seq_relationship", 2, H)
    head = "cls.predictions"
    shapes |= {f"{head}.bias": [V], **norm(f"{head}.transform.LayerNorm", H)}
    shapes |= dense(f"{head}.transform.dense", H, H)
    config = {"model_type": "bert", "architectures": ["BertForPreTraining"], "hidden_size": H}
    config |= {"num_hidden_layers": layers, "num_attention_heads": H // 64, "vocab_size": V}
    return {**config, "intermediate_size": 4 * H, "max_position_embeddings": P}, shapes


def gpt2(H, layers, V, P):
    """A GPT-2's."""
    shapes = {"transformer.wte.weight": [V, H], "transformer.wpe.weight": [P, H]}
    shapes |= norm("transformer.ln_f", H)
    sizes = {
        "attn.c_attn": (H, 3),
        "attn.c_proj": (H, 1),
        "mlp.c_fc": (H, 4),
        "mlp.c_proj": (4 * H, 0),
    }
    for layer in (f"transformer.h.{number}" for number in range(layers)):
        shapes |= norm(f"{layer}.ln_1", H) | norm(f"{layer}.ln_2", H)
        for name, (inputs, times) in sizes.items():
            outputs = times * H or H
            shapes[f"{layer}.{name}.weight"] = [inputs, outputs]
            shapes[f"{layer}.{name}.bias"] = [outputs]
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": H}
    return {
        **config,
        "n_layer": layers,
        "n_head": H // 64,
        "vocab_size": V,
        "n_positions": P,
    }, shapes


def write_holes(path, config, shapes):
    ends = list(accumulate(4 * math.prod(shape) for shape in shapes.values()))
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        for (name, shape), start, end in zip(shapes.items(), [0, *ends], ends)
    }
    encoded = json.dumps(header)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded.encode())
        file.truncate(file.tell() + ends[-1])
    return path


def named_starts(path):
    """The keys that say what a recipe's networks start from, and what they say."""
    content = read_yaml(path)
    parts = {"": content} | {f"networks.{k}.": x for k, x in content.get("networks", {}).items()}
    return {
        f"{lead}init.from": part["init"]["from"] for lead, part in parts.items() if "init" in part
    }


def started(path, bases, overrides=()):
    """The recipe's configuration as a run has it; its networks start from those of `bases`."""
    starts = [f"{key}={bases[found]}" for key, found in named_starts(path).items()]
    config = load_config([f"objectives/{path.stem}"], [*overrides, *starts])
    model = fitted(config.model, config.objectives)
    return with_networks(dataclasses.replace(config, model=model))


def vocabulary_of(config):
    """Of a tokenizer that has everything, as large as the model's."""
    size = config.model.vocab_size
    return Vocabulary(
        size=size,
        special_ids={role: number for number, role in enumerate(ROLES)},
        document_end=ROLES.index("sep"),
        word_starts=np.ones(size, bool),
        special_tokens={mark: len(ROLES) + number for number, mark in enumerate(MARKS)},
        find_sentence_ends=lambda: np.ones(size, bool),
    )


def counted(config):
    """How many parameters there are, by parts: the body, each head, each other network."""
    model, parts = make_model(config), Counter()
    heads = {head.name for head in model.heads}
    for name, leaf in flatten(unbox(model.abstract())).items():
        first = name.split("/")[0]
        parts[first if first in heads | {*model.networks} else "body"] += leaf.size
    return parts


def rows_for(stream):
    """Two full rows as an objective reads them, each of one document, labelled if they are so."""
    data = stream.data
    shape = (2, stream.objective.raw_length(data.sequence_length))
    rows = {name: np.ones(shape, np.int32) for name in ("tokens", "segment_ids", "marks")}
    label = getattr(data.rows, "label", None)
    return (
        rows
        if label is None
        else {**rows, label: np.zeros(2, np.int32), "token_types": rows["tokens"]}
    )


def header_of(path):
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_there_are_recipes_of_published_size():
    assert {path.stem for path in RECIPES} >= PUBLISHED.keys() and len(RECIPES) >= 14


@named(RECIPES)
def test_each_has_the_header_that_is_promised_and_its_own_command(path):
    header = header_of(path)
    for word in ("source:", "cost:", "expected:", "command:"):
        assert len(re.findall(rf"^# {word} +\S", header, re.M)) == 1, word
    assert not re.search(r"@\w@|\b(COST|EXPECTED)\b", header)
    assert re.search(rf"^# command: .*jaxssl pretrain objectives/{path.stem}( |$)", header, re.M)


@named(RECIPES)
def test_the_runs_directory_is_named_after_the_recipe(path, bases):
    assert started(path, bases).out == f"runs/{path.stem}"


@named(RECIPES)
def test_its_command_changes_nothing_but_where_things_lie(path, bases):
    command = re.search(rf"jaxssl pretrain objectives/{path.stem}(.*)$", header_of(path), re.M)
    assert command is not None
    words = [word for word in command.group(1).split() if re.match(r"[\w.]+=\S", word)]
    starts = [word for word in words if word.partition("=")[0].endswith("from")]
    if path not in SMALL:  # these start from runs under names of their own
        assert sorted(word.partition("=")[0] for word in starts) == sorted(named_starts(path))
    others = [word for word in words if word not in starts]
    assert started(path, bases, others) == started(path, bases)


@named(RECIPES)
def test_its_parts_go_together(path, bases):
    config = started(path, bases)
    vocabulary = vocabulary_of(config)
    for stream in config.all_streams.values():
        stream.objective.check(config.model, vocabulary)
        data = stream.data
        check_length(config.model, *data.longest)
        stream.objective.check_rows(rows_for(stream))
        assert data.batch_size % config.train.accumulation == 0
    epochs, steps = config.train.epochs, config.train.steps
    if epochs is not None:
        steps = round(epochs * EXAMPLES / next(iter(config.all_streams.values())).data.batch_size)
    rate = config.optimizer.schedule.make(1.0, steps, 1)
    assert float(rate(0)) <= 1.0 and float(rate(steps // 2)) > 0
    assert 0 < config.evaluation.every < steps > config.checkpoint.every
    make_model(config)


@named([path for path in RECIPES if named_starts(path)])
def test_what_starts_from_another_finds_all_of_its_body_there(path, bases):
    config = started(path, bases)
    start = open_starts(inits(config), make_model(config), config.checkpoint, config.out)
    check_untrained(config, start.entries)
    fresh = {str(entry.target).split("/")[0] for entry in start.entries if entry.action == "fresh"}
    assert fresh <= {"projection", "auto_decoder"}
    dropped = {str(entry.source) for entry in start.entries if entry.action == "dropped"}
    assert not any("/layers/" in name or name.startswith("embeddings/pos") for name in dropped)


@named([path for path in RECIPES if path.stem in PUBLISHED])
def test_it_has_the_published_number_of_parameters(path, bases):
    parts = counted(started(path, bases))
    for names, published in PUBLISHED[path.stem].items():
        assert sum(parts[name] for name in names.split(" + ")) == published, names


@named(RECIPES)
def test_its_title_says_how_many_parameters_there_are(path, bases):
    title = header_of(path).split("# source:")[0]
    told = [int(x.replace(",", "")) for x in re.findall(r"\d{1,3}(?:,\d{3}){2,}", title)]
    config = started(path, bases)
    parts = counted(config)
    body, others = parts["body"], config.networks
    heads = sum(size for name, size in parts.items() if name not in ("body", *others))
    assert {*told} <= {*parts.values(), heads, body + heads}, parts
