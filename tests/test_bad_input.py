"""Users' mistakes: one clear error, exit code 2, no traceback, and nothing that was there is lost.

Each case is one command line, run in this process. A run directory that a command refuses must keep
its bytes.
"""

import hashlib
import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import toy

from jaxssl import cli
from jaxssl.checkpoint import manifest
from jaxssl.data.store.manifest import seal_store
from jaxssl.run.sealing import seal_run


@dataclass(frozen=True)
class Place:
    """Where a case makes its mistake."""

    tmp: Path
    words: Path
    bytes: Path
    trained: Path
    """A finished run (its copy): BERT, 10 steps, checkpoints 5 and 10."""

    def store(self) -> Path:
        """A copy of the token store, to be spoilt."""
        copy = self.tmp / "store"
        shutil.copytree(self.words, copy)
        return copy

    def pretrain(self, *overrides: str, kind: str = "masked", store=None, out=None) -> list[str]:
        store = store or (self.bytes if kind == "gpt2" else self.words)
        content = toy.recipe(store, out or self.tmp / "run", kind)
        path = toy.write_recipe(self.tmp / "recipe.json", content)
        return ["pretrain", str(path), *overrides]

    def resume(self, *overrides: str) -> list[str]:
        """The command that made the finished run, with more overrides."""
        return [*trained_command(self.trained, self.words, self.tmp), *overrides]

    def corpus(self, content: bytes | None) -> Path:
        path = self.tmp / "corpus.txt"
        if content is not None:
            path.write_bytes(content)
        return path


def trained_command(run_dir: Path, words: Path, tmp: Path) -> list[str]:
    content = toy.recipe(words, run_dir, "masked")
    content["train"] = {"steps": 10}
    return ["pretrain", str(toy.write_recipe(tmp / "trained.json", content))]


# --- The cases: (what it is, (place) -> command line, what the message must hold) ---------------

CASES: list[tuple[str, Callable[[Place], list[str]], list[str]]] = []


def case(name: str, *told: str):
    def add(function):
        CASES.append((name, function, list(told)))
        return function

    return add


@case("unknown key", "unknown key", "model.hiden_size", "did you mean 'hidden_size'")
def _(p):
    return p.pretrain("model.hiden_size=16")


@case("mistyped section", "unknown key", "optimiser", "did you mean 'optimizer'")
def _(p):
    return p.pretrain("optimiser.learning_rate=1e-3")


@case("two mistakes at once", "hiden_size", "learning_rat", "2 errors")
def _(p):
    return p.pretrain("model.hiden_size=16", "optimizer.learning_rat=1e-3")


@case("wrong type", "wrong type", "model.hidden_size", "int", "'wide'")
def _(p):
    return p.pretrain("model.hidden_size=wide")


@case("a mapping where a number belongs", "wrong type", "train.steps", "int")
def _(p):
    return p.pretrain("train.steps.all=3")


@case("unknown choice", "train.not_finite", "'skip' | 'abort' | 'rollback'", "'ignore'")
def _(p):
    return p.pretrain("train.not_finite=ignore")


@case("missing corpus for a tokenizer", "names nothing", "corpus.txt", "no such file")
def _(p):
    return tokenizer(p, p.corpus(None))


@case("empty corpus for a tokenizer", "the corpus is empty", "corpus.txt", "0 bytes")
def _(p):
    return tokenizer(p, p.corpus(b""))


@case("binary corpus for a tokenizer", "is binary, not text", "corpus.txt", "NUL")
def _(p):
    return tokenizer(p, p.corpus(b"\x7fELF\0\0\1\2" * 100))


@case("missing corpus for a store", "names nothing", "corpus.txt", "no such file")
def _(p):
    return prepare(p, p.corpus(None))


@case("empty corpus for a store", "the corpus is empty", "corpus.txt", "0 bytes")
def _(p):
    return prepare(p, p.corpus(b""))


@case("binary corpus for a store", "is binary, not text", "corpus.txt", "NUL")
def _(p):
    return prepare(p, p.corpus(b"PK\3\4\0\0" * 100))


@case(
    "no source for a tokenizer", "required key is missing", "where:    source", "extends=TOKENIZER"
)
def _(p):
    return ["tokenizer", f"out={p.tmp / 'tokenizer'}"]


@case("no source for a store", "a required key is missing", "give source.name=...", "docstrings")
def _(p):
    return ["prepare", f"out={p.tmp / 'new-store'}", f"tokenizer={p.words / 'tokenizer'}"]


def tokenizer(p, corpus):
    return [
        "tokenizer",
        "source.name=text",
        f'source.paths=["{corpus}"]',
        f"out={p.tmp / 'tokenizer'}",
        "vocab_size=200",
    ]


def prepare(p, corpus):
    return [
        "prepare",
        "source.name=text",
        f'source.paths=["{corpus}"]',
        f"out={p.tmp / 'new-store'}",
        f"tokenizer={p.words / 'tokenizer'}",
    ]


@case("store built with another tokenizer", "built with another tokenizer", "store", "fix")
def _(p):
    store = p.store()
    shutil.rmtree(store / "tokenizer")
    shutil.copytree(p.bytes / "tokenizer", store / "tokenizer")
    return p.pretrain(store=store)


@case("evaluation over another tokenizer's store", "built with another tokenizer", "bytes")
def _(p):
    return ["evaluate", str(p.trained), "--store", str(p.bytes)]


@case("vocabulary too small", "smaller than the token store's largest id", "model.vocab_size")
def _(p):
    return p.pretrain("model.vocab_size=64")


@case(
    "vocabulary smaller than the tokenizer's",
    "smaller than the tokenizer's",
    "model.vocab_size",
    "got:      129",
    "fix:      set model.vocab_size=130",
)
def _(p):
    """The corpus happens to use only the smaller ids."""
    store = p.store()
    manifest = json.loads((store / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for part in (split, *split["shards"]):
            part["largest_id"] = 100
    (store / "manifest.json").write_text(json.dumps(manifest))
    return p.pretrain("model.vocab_size=129", store=store)


@case("truncated shard", "wrong size", "00000.tokens", "bytes", "copy the file again")
def _(p):
    store = p.store()
    shard = store / "train" / "00000.tokens"
    shard.write_bytes(shard.read_bytes()[:-2])
    return p.pretrain(store=store)


@case("missing shard", "a shard is missing", "00000.sentences", "no file")
def _(p):
    store = p.store()
    (store / "validation" / "00000.sentences").unlink()
    return p.pretrain(store=store)


@case("altered shard", "altered after it was written", "00000.tokens", "manifest.json notes")
def _(p):
    store = p.store()
    flip(store / "train" / "00000.tokens", 100)
    return ["inspect", str(store), "--verify"]


@case("altered shard, training on it", "altered", "ids below", "got:      65535", "--verify")
def _(p):
    """Of a store of version 0.1, which has no checksums of samples."""
    store = toy.without_samples(p.store())
    spoil_token(store / "train" / "00000.tokens", 1000)
    return p.pretrain("data.verify=false", store=store)


@case("altered shard, verified", "altered after it was written", "00000.tokens", "other contents")
def _(p):
    """To an id that the vocabulary has: nothing but the checksum can tell."""
    store = p.store()
    flip(store / "train" / "00000.tokens", 100)
    return p.pretrain(store=store)


@case(
    "an edited config.yaml", "not what was written", "config.yaml", "jaxssl seal", "other contents"
)
def _(p):
    config = p.trained / "config.yaml"
    config.write_text(config.read_text().replace("hidden_size: 16", "hidden_size: 17"))
    return ["evaluate", str(p.trained)]


@case(
    "an edit that was accepted",
    "belongs to a different configuration",
    "config.yaml",
    "model.hidden_size: 24 -> 16",
)
def _(p):
    config = p.trained / "config.yaml"
    config.write_text(config.read_text().replace("hidden_size: 16", "hidden_size: 24"))
    seal_run(p.trained)
    return p.resume()


@case("a tokenizer that changed", "not what was written", "tokenizer/tokenizer.json", "jaxssl seal")
def _(p):
    flip(p.trained / "tokenizer" / "tokenizer.json", 500)
    return p.resume()


@case("nothing to verify", "no checkpoint to verify", "checkpoints", "it goes on")
def _(p):
    shutil.rmtree(p.trained / "checkpoints")
    return ["inspect", str(p.trained), "--verify"]


@case("a store whose tokenizer changed", "not what was written", "tokenizer.json", "jaxssl seal")
def _(p):
    store = p.store()
    seal_store(store)
    flip(store / "tokenizer" / "tokenizer.json", 500)
    return p.pretrain(store=store)


@case("run in a bucket", "an address cannot stand", "where:    out", "gs://bucket/run", "mount")
def _(p):
    return p.pretrain("out=gs://bucket/run")


@case("store in a bucket", "an address cannot stand", "where:    data.store", "s3://bucket")
def _(p):
    return p.pretrain("data.store=s3://bucket/store")


@case("preparing into a bucket", "an address cannot stand", "where:    out")
def _(p):
    tokenizer = f"tokenizer={p.words / 'tokenizer'}"
    return ["prepare", "out=gs://bucket/store", tokenizer, "source.name=docstrings"]


@case("tokenizer into a bucket", "an address cannot stand", "where:    out")
def _(p):
    return ["tokenizer", "out=gs://bucket/tokenizer", "source.name=docstrings"]


@case("demo into a bucket", "an address cannot stand", "where:    --out")
def _(p):
    return ["demo", "--short", "--out", "gs://bucket/demo"]


@case("no store", "no token store here", "nowhere", "jaxssl prepare")
def _(p):
    return p.pretrain(f"data.store={p.tmp / 'nowhere'}")


@case("no validation split", "no such split to validate on", "evaluation.split", "one of train")
def _(p):
    return p.pretrain("evaluation.split=validaton")


@case("sequence too long", "longer than the model's positions", "data.sequence_length", "64")
def _(p):
    return p.pretrain("data.sequence_length=64")


@case("heads do not divide", "heads do not divide the width", "model.num_heads", "hidden_size=16")
def _(p):
    return p.pretrain("model.num_heads=3")


@case("batch does not divide", "does not divide over the devices", "data.batch_size", "use 8 or 16")
def _(p):
    return p.pretrain("data.batch_size=12")


@case("batch does not divide over microbatches", "data.batch_size", "8 batch shards x 3 microba")
def _(p):
    return p.pretrain("train.accumulation=3")


@case(
    "one microbatch that would gather once",
    "gathers and sums once a step as it is",
    "where:    mesh.gather_once",
    "train.accumulation above 1",
)
def _(p):
    return p.pretrain("mesh.gather_once=true")


@case(
    "a contrast that would gather once",
    "goes through its parts twice",
    "where:    mesh.gather_once",
    "true with objective=simcse",
)
def _(p):
    simcse = ("objective.name=simcse", "data.rows.name=documents", "data.batch_size=16")
    return p.pretrain("mesh.gather_once=true", "train.accumulation=2", *simcse)


@case("a mesh of more devices than there are", "product is 8", "JAX_NUM_CPU_DEVICES=16")
def _(p):
    return p.pretrain("mesh.data=1", "mesh.fsdp=16")


@case("a kind of tokenizer by half its name", "kind", "did you mean 'byte_bpe' or 'sentencepiece_b")
def _(p):
    return [*tokenizer(p, p.corpus(b"text")), "kind=bpe"]


@case("one path where a list belongs", "source.paths", "'source.paths=[books/*.txt]'")
def _(p):
    return [*tokenizer(p, p.corpus(b"text")), "source.paths=books/*.txt"]


@case("an override with spaces", "no such recipe", "without spaces, such as train.steps=1000")
def _(p):
    return ["config", "pretrain/bert-tiny", "train.steps", "=", "5"]


@case("a report of no run", "not a run directory", "configuration's `out`")
def _(p):
    return ["report", str(p.tmp)]


@case("mesh does not fit", "the mesh does not fit the devices", "product is 8", "fsdp=3")
def _(p):
    return p.pretrain("mesh.fsdp=3")


@case("a preset and other axes", "contradict each other", "mesh.preset, fsdp", "mesh.preset=fsdp,")
def _(p):
    return p.pretrain("mesh.preset=ddp", "mesh.fsdp=8")


@case("a preset without its axis", "needs the number of shards", "mesh.tensor", "mesh.tensor=2")
def _(p):
    return p.pretrain("mesh.preset=fsdp+tensor")


@case("a preset that there is not", "mesh.preset", "'ddp' | 'fsdp' | 'fsdp+tensor'", "'zero'")
def _(p):
    return p.pretrain("mesh.preset=zero")


@case("a layout of no parameter", "matches no parameter", "did you mean 'embeddings/tokens/embeddi")
def _(p):
    return p.pretrain("mesh.parameters={embeddings/token/embedding: {vocab: []}}")


@case("a layout of an axis that is not there", "has such an axis", "layers, embed, mlp", "vocab")
def _(p):
    return p.pretrain("mesh.parameters={'**/up/kernel': {vocab: []}}")


@case(
    "a layout by no axis of the mesh", "mesh.parameters.**/up/kernel.mlp", "did you mean 'tensor'"
)
def _(p):
    return p.pretrain("mesh.parameters={'**/up/kernel': {mlp: [tensors]}}")


@case("a layout that does not divide", "embeddings/tokens/embedding, axis 0 (vocab)", "mesh.fsdp")
def _(p):
    layout = "mesh.parameters={'**/tokens/embedding': {vocab: [fsdp]}}"
    return p.pretrain("mesh.preset=fsdp", layout, "model.vocab_size=140")


@case("a large table on every device", "embeddings/positions/embedding", "mesh.replicated=true")
def _(p):
    return p.pretrain("mesh.data=4", "mesh.tensor=2", "model.max_positions=1048576")


@case("vocabulary does not divide over the mesh", "does not divide over the mesh", "vocab", "131")
def _(p):
    return p.pretrain("mesh.data=4", "mesh.tensor=2", "model.vocab_size=131")


@case("a file where the run directory belongs", "run directory cannot be written", "in-the-way")
def _(p):
    (p.tmp / "in-the-way").write_text("mine")
    return p.pretrain(out=p.tmp / "in-the-way")


@case("a run directory below a file", "run directory cannot be written", "Not a directory")
def _(p):
    (p.tmp / "in-the-way").write_text("mine")
    return p.pretrain(out=p.tmp / "in-the-way" / "run")


@case("a directory with other things", "holds something else", "thesis.tex", "out=")
def _(p):
    (p.tmp / "run").mkdir()
    (p.tmp / "run" / "thesis.tex").write_text("mine")
    return p.pretrain()


@case(
    "another configuration's run", "belongs to a different configuration", "hidden_size: 16 -> 32"
)
def _(p):
    return p.resume("model.hidden_size=32")


@case("changed objective", "different configuration", "objective.rate: 0.15 -> 0.3")
def _(p):
    return p.resume("objective.rate=0.3")


@case("changed order of the data", "different configuration", "data.seed: 0 -> 1")
def _(p):
    return p.resume("data.seed=1")


@case("changed learning rate", "different configuration", "optimizer.learning_rate: 0.003 -> 0.01")
def _(p):
    return p.resume("optimizer.learning_rate=0.01")


@case("store that changed since", "the data are not those", "contents with SHA-256")
def _(p):
    store = p.store()
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "seed": 7}))
    # The run belongs to this place, so that the path is not what differs.
    return [*trained_command(p.trained, store, p.tmp), *same_store(p, store)]


def same_store(p, store) -> list[str]:
    known = json.loads((p.trained / "run.json").read_text())
    known["config"]["data"]["store"] = str(store)
    (p.trained / "run.json").write_text(json.dumps(known))
    seal_run(p.trained)
    return []


@case("damaged run.json", "says which run this is is damaged", "run.json", "fix")
def _(p):
    (p.trained / "run.json").write_text("{")
    seal_run(p.trained)
    return p.resume()


@case(
    "all checkpoints corrupt", "no checkpoint of the run is intact", "checkpoints", "other contents"
)
def _(p):
    for step in (5, 10):
        flip(array_file(p.trained, step), -20)
    return p.resume()


@case("evaluation of a corrupt checkpoint", "a checkpoint is damaged", "SHA-256", "other contents")
def _(p):
    flip(array_file(p.trained, 10), -20)
    return ["evaluate", str(p.trained), "--step", "10"]


@case("a checkpoint of a newer version", "newer version of jaxssl", "format 2", "pip install -U")
def _(p):
    newer(p.trained)
    return p.resume()


@case("evaluation of a newer version's checkpoint", "newer version of jaxssl", "format 2")
def _(p):
    newer(p.trained)
    return ["evaluate", str(p.trained), "--step", "last"]


def newer(run_dir: Path) -> None:
    step = run_dir / "checkpoints" / "10"
    meta = json.loads((step / "meta.json").read_text())
    manifest.seal(step, {**meta, "format": 2})


@case("a step that is not there", "no such checkpoint", "best, last or one of 5, 10", "7")
def _(p):
    return ["evaluate", str(p.trained), "--step", "7"]


@case("not a run", "not a run directory", "nowhere, which does not exist", "that `out` named")
def _(p):
    return ["evaluate", str(p.tmp / "nowhere")]


@case("a base that is not there", "not a run to start from", "does not exist in", "init.from=PATH")
def _(p):
    return p.pretrain("init.from=no/such/run")


@case("a base of almost the name", "not a run to start from", "did you mean", "/trained'?")
def _(p):
    return p.pretrain(f"init.from={p.trained.parent}/traned")


@case("a recipe of another ending", "no such recipe", "did you mean", "recipe.yaml'?")
def _(p):
    (p.tmp / "recipe.yaml").write_text("{}")
    return ["pretrain", str(p.tmp / "recipe.yml")]


@case("a recipe without its ending", "no such recipe", "did you mean", "recipe.yml'?")
def _(p):
    (p.tmp / "recipe.yml").write_text("{}")
    return ["pretrain", str(p.tmp / "recipe")]


@case(
    "data beside streams",
    "data is given beside streams, each of which has its own",
    "where:    data.batch_size",
    "expected: streams.a.data and streams.b.data",
    "got:      data.batch_size=64",
    "write streams.a.data.batch_size=...",
)
def _(p):
    return ["pretrain", "streams.a.data.store=x", "streams.b.data.store=y", "data.batch_size=64"]


@case(
    "a table that does not say what it is", "a name is missing", "add data.tables.train.name=file"
)
def _(p):
    return ["finetune", "out=x", "model.name=bert", "data.tables.train.format=csv"]


@case("a split that was not asked for", "no split 'test'", "a larger test_fraction")
def _(p):
    return ["evaluate", str(p.trained), "--split", "test"]


@case("no such split", "no split 'valid'", "validation", "did you mean 'validation'")
def _(p):
    return ["evaluate", str(p.trained), "--split", "valid"]


@case("too few mask slots", "more predictions than there are slots", "objective.slots", "got")
def _(p):
    return p.pretrain("objective.slots=1")


@case("causal objective on BERT", "sees the tokens it would have to predict", "objective.name")
def _(p):
    return p.pretrain("objective.name=causal_lm")


@case("beams that would be drawn", "nothing is drawn", "--temperature, --top-k", "leave out")
def _(p):
    return ["generate", str(p.trained), "x", "--beams=2", "--temperature=0.5", "--top-k=3"]


@case("a search without beams", "nothing is searched", "--alpha", "give --beams")
def _(p):
    return ["generate", str(p.trained), "x", "--alpha=2"]


@case("adapters of what is random", "starts from nothing", "peft, init.from", "init.from=")
def _(p):
    return p.pretrain("peft.name=lora")


@case("a rank of none", "rank", "peft.default", "1")
def _(p):
    return p.pretrain("peft.name=lora", "peft.rank=0", f"init.from={p.trained}")


@case("a target that is nowhere", "a target is nowhere", "peft.default", "did you mean 'query'?")
def _(p):
    return p.pretrain("peft.name=lora", "peft.targets=[qeury]", f"init.from={p.trained}")


@case("virtual tokens where rows hold several texts", "rows hold several", "data.rows", "documents")
def _(p):
    return p.pretrain("peft.name=prompt", "peft.length=2", f"init.from={p.trained}")


@case("an unknown method", "lorra", "peft.default.name", "did you mean 'lora'?")
def _(p):
    return p.pretrain("peft.name=lorra", f"init.from={p.trained}")


@case(
    "a method by its name alone",
    "by its name alone",
    "where:    peft\n",
    "fix:      peft.name=lora",
)
def _(p):
    return p.pretrain("peft=lora", f"init.from={p.trained}")


@case("an adapter that is a name", "by its name alone", "peft.news", "peft.news.name=ia3")
def _(p):
    return p.pretrain("peft={news: ia3}", f"init.from={p.trained}")


@case("settings beside named adapters", "beside adapters by name", "lora beside news", "peft.own")
def _(p):
    return p.pretrain("peft={name: lora, news: {name: ia3}}", f"init.from={p.trained}")


@case("biases that are not there", "nothing that bitfit changes", "peft.default", "lora")
def _(p):
    shape = [x for x in SHAPE if "vocab" not in x]
    llama = ["model.name=llama", "model.num_kv_heads=2", "model.vocab_size=304", *shape]
    base = p.tmp / "llama"
    steps = ["train.steps=1", "optimizer.schedule.warmup=0", "evaluation.every=0"]
    assert cli.main(p.pretrain(*llama, *steps, kind="gpt2", out=base)) == 0
    return p.pretrain("peft.name=bitfit", f"init.from={base}", *llama, kind="gpt2")


@case("codes of what is trained", "no frozen parameter", "precision.frozen", "nf4", "peft")
def _(p):
    return p.pretrain("precision.frozen=nf4")


@case("unknown codes", "precision.frozen", "'int8' | 'int4' | 'nf4'", "fp4")
def _(p):
    return p.pretrain("precision.frozen=fp4")


@case("codes of kernels that are too narrow", "too small blocks", "[2, 12, 2, 6]", "multiple of 16")
def _(p):
    narrow = ["model.hidden_size=12", "model.intermediate_size=12"]
    base = p.tmp / "narrow"
    steps = ["train.steps=1", "optimizer.schedule.warmup=0", "evaluation.every=0"]
    assert cli.main(p.pretrain(*narrow, *steps, out=base)) == 0
    return p.pretrain("precision.frozen=int8", "peft.name=lora", f"init.from={base}", *narrow)


@case("no adapters to merge", "no adapters", "trained", "peft")
def _(p):
    return ["merge", str(p.trained), str(p.tmp / "merged")]


@case("a soup of one", "not several runs", "soup", "two or more")
def _(p):
    return ["soup", str(p.trained), "--out", str(p.tmp / "soup")]


@case("a base for no adapter", "no adapter", "--base", "adapter_config.json")
def _(p):
    return ["import", str(p.trained), str(p.tmp / "new"), "--base", str(p.trained)]


@case("an objective as a word", "wrong type", "objective", "set objective.name=prefix_lm")
def _(p):
    return p.pretrain("objective=prefix_lm")


@case("masked objective on GPT-2", "causal model cannot", "objective.name", "bidirectional")
def _(p):
    return p.pretrain("model.name=gpt2", *SHAPE)


SHAPE = [
    "model.vocab_size=136",
    "model.hidden_size=16",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.intermediate_size=32",
    "model.max_positions=32",
]


@case("sentence pairs objective on windows", "needs sentence pairs", "data.rows", "name: pairs")
def _(p):
    return p.pretrain("objective.name=next_sentence")


def one_sentence_each(p: Place) -> Path:
    """A store whose documents have no sentence ends inside."""
    text = "\n\n".join("".join(document) for document in toy.documents(40))
    (p.tmp / "text.txt").write_text(text)
    out = p.tmp / "flat"
    asked = prepare(p, p.tmp / "text.txt")[:-2]
    more = ["source.documents=blank_lines", "sentences=none", "validation_fraction=0.2", "tasks=1"]
    assert cli.main([*asked, f"out={out}", f"tokenizer={p.words / 'tokenizer'}", *more]) == 0
    return out


@case(
    "sentence order without sentences",
    "no document has two sentences",
    "flat/",
    "documents of one sentence",
    "sentences=rule",
)
def _(p):
    pairs = ("data.rows.name=pairs", "data.rows.label=sentence_order")
    return p.pretrain("objective.name=sentence_order", *pairs, store=one_sentence_each(p))


@case("next sentences without sentences", "no document has two sentences", "sentences=rule")
def _(p):
    return p.pretrain(kind="bert", store=one_sentence_each(p))


@case(
    "rows of sentences without sentences",
    "rows of sentences are rows of documents",
    "flat",
    "of one sentence",
    "rows.unit=document",
)
def _(p):
    rows = ("data.rows.name=documents", "data.rows.unit=sentence")
    return p.pretrain(*rows, store=one_sentence_each(p))


@case(
    "a batch of one for a contrast",
    "no other row that a text could be told from",
    "where:    data.batch_size",
    "expected: 2 or more, for simcse",
    "got:      1",
    "train.accumulation",
)
def _(p):
    return p.pretrain("objective.name=simcse", "data.rows.name=documents", "data.batch_size=1")


@case(
    "a batch of one for pairs of texts",
    "no other row that a text could be told from",
    "where:    data.batch_size",
    "expected: 2 or more, for similarity",
)
def _(p):
    (p.tmp / "pairs.csv").write_text("text,other\na cat,the cat\na dog,the dog\n" * 8)
    return [
        "finetune",
        f"out={p.tmp / 'similar'}",
        f"init.from={p.trained}",
        "task.name=similarity",
        "task.pair=other",
        "data.tables.train.name=file",
        f"data.tables.train.path={p.tmp / 'pairs.csv'}",
        "data.tables.validation_fraction=0.2",
        "data.max_length=16",
        "data.batch_size=1",
    ]


@case(
    "a teacher with another vocabulary",
    "another tokenizer than what teacher starts from",
    "where:    data.store, networks.teacher.init.from",
    "pieces",
    "give networks.teacher.init.from one with the same tokenizer",
)
def _(p):
    """Of as many pieces: nothing but the tokenizers can tell."""
    store = p.tmp / "other"
    toy.write_store(store, other_tokenizer(p), {"train": 60, "validation": 9})
    return p.pretrain(
        "objective.name=distil", f"networks.teacher.init.from={p.trained}", store=store
    )


def other_tokenizer(p: Place):
    """That of the words, with two pieces changed round."""
    from jaxssl.data.tokenizer.loading import load_tokenizer

    shutil.copytree(p.words / "tokenizer", p.tmp / "swapped")
    path = p.tmp / "swapped" / "tokenizer.json"
    content = json.loads(path.read_text())
    pieces = content["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]
    path.write_text(json.dumps(content))
    return load_tokenizer(p.tmp / "swapped")


@case(
    "streams of two tokenizers",
    "the token store of a was made with another tokenizer than the token store of b",
    "where:    streams.a.data.store, streams.b.data.store",
    "prepare the text of streams.a.data.store",
)
def _(p):
    content = toy.recipe(p.words, p.tmp / "run", "masked")
    objective, data = content.pop("objective"), content.pop("data")
    streams = {"a": data, "b": {**data, "store": str(p.bytes)}}
    content["streams"] = {name: {"objective": objective, "data": x} for name, x in streams.items()}
    content["mixture"] = {"name": "by_turns"}
    return ["pretrain", str(toy.write_recipe(p.tmp / "recipe.json", content))]


@case(
    "a gazetteer that matches nothing",
    "the gazetteer matches nothing",
    "names.txt",
    "no phrase found",
    "gazetteer.ignore_case=true",
)
def _(p):
    (p.tmp / "names.txt").write_text("New York\nThe Cat\n")
    return with_gazetteer(p)


@case("an empty gazetteer", "the gazetteer is empty", "names.txt", "a phrase a line")
def _(p):
    (p.tmp / "names.txt").write_text("\n\n")
    return with_gazetteer(p)


@case("a gazetteer that is not there", "cannot be read", "nams.txt", "did you mean")
def _(p):
    (p.tmp / "names.txt").write_text("cat\n")
    return [*with_gazetteer(p), f"gazetteer.path={p.tmp / 'nams.txt'}"]


def with_gazetteer(p):
    documents = ["".join(document) for document in toy.documents(10)]
    corpus = p.corpus("\n\n".join(documents).encode())
    more = ("source.documents=blank_lines", "tasks=1", "validation_fraction=0")
    return [*prepare(p, corpus), *more, f"gazetteer.path={p.tmp / 'names.txt'}"]


@case("marked units of a store without marks", "no marked spans", "words", "gazetteer.path=FILE")
def _(p):
    return p.pretrain("objective.units.name=marked")


def with_spans(p, spans):
    rows = [{"text": "the cat sees a dog.", "spans": each} for each in spans]
    (p.tmp / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        "prepare",
        "source.name=jsonl",
        f'source.paths=["{p.tmp / "rows.jsonl"}"]',
        "source.spans_key=spans",
        f"out={p.tmp / 'new-store'}",
        f"tokenizer={p.words / 'tokenizer'}",
        "tasks=1",
        "validation_fraction=0",
    ]


@case("spans out of range", "cannot be used", "rows.jsonl:2: a span is out of range: [4, 70)")
def _(p):
    return with_spans(p, [[[4, 7]], [[4, 70]]])


@case("spans that overlap", "no readable document", "two spans overlap: [0, 7) and [4, 7)")
def _(p):
    return with_spans(p, [[[4, 7], [0, 7]]])


@case("a key of spans that is not there", "no readable document", "no key 'marks'", "keys: spans")
def _(p):
    return [*with_spans(p, [[[4, 7]]]), "source.spans_key=marks"]


@case("no span at all", "no span of the text is marked", "source.spans_key", "empty list")
def _(p):
    return with_spans(p, [[], None])


@case("a template without its parts", "does not have its three parts", "source.template", "{rel}")
def _(p):
    source = ["source.name=triples", f'source.paths=["{p.corpus(b"x")}"]']
    tokenizer = f"tokenizer={p.words / 'tokenizer'}"
    return [
        "prepare",
        *source,
        f"out={p.tmp / 's'}",
        tokenizer,
        'source.template="{subject} {rel}"',
    ]


@case("tokenizer without a mask", "no mask token", "objective.name", "bos, eos")
def _(p):
    return p.pretrain(store=p.bytes)


@case("split too small for a batch", "fewer rows than one batch", "data.batch_size")
def _(p):
    return p.pretrain("data.batch_size=4096")


@case("generating with BERT", "this run cannot generate", "causal_lm", "fill-mask")
def _(p):
    return ["generate", str(p.trained), "the cat"]


@case("a text without a mask", "nothing to fill", "[MASK] in the text", "the cat")
def _(p):
    return ["fill-mask", str(p.trained), "the cat"]


@case("a mask spelt otherwise", "nothing to fill", "'<mask>'", "write [MASK] where a word")
def _(p):
    return ["fill-mask", str(p.trained), "the <mask> sees"]


@case("a text too long to fill", "longer than the model's positions", "at most 32", "shorten")
def _(p):
    return ["fill-mask", str(p.trained), "the cat [MASK] " * 20]


@case("more candidates than tokens", "1 to 130", "top", "1000")
def _(p):
    return ["fill-mask", str(p.trained), "the [MASK] sees", "--top", "1000"]


@case(
    "a prompt too long to continue",
    "longer than the model's positions",
    "samples.prompts[1]",
    "model.max_positions=32",
    "shorten the prompt",
)
def _(p):
    return p.pretrain('samples.prompts=["", "the cat"]', kind="gpt2")


@case("a prompt without a mask", "no mask to fill", "samples.prompts[1]", "[MASK] in the text")
def _(p):
    return p.pretrain('samples.prompts=["the [MASK]", "the cat"]')


@case("a prompt too long to fill", "longer than the model's positions", "samples.prompts[0]")
def _(p):
    return p.pretrain(f'samples.prompts=["{"the cat [MASK] " * 20}"]')


@case("more candidates than tokens in samples", "samples.top", "1 to 130", "1000")
def _(p):
    return p.pretrain('samples.prompts=["the [MASK]"]', "samples.top=1000")


@case("prompts for sentence pairs", "neither continue a prompt nor", "samples.prompts=[]")
def _(p):
    return p.pretrain(
        "objective.name=next_sentence", "data.rows.name=pairs", 'samples.prompts=["the cat"]'
    )


@case("unknown recipe", "no such recipe", "did you mean 'pretrain/bert-tiny'")
def _(p):
    return ["pretrain", "pretrain/bert-tny"]


@case("recipe that is not YAML", "not valid YAML", "broken.yaml")
def _(p):
    (p.tmp / "broken.yaml").write_text("a: [1, 2")
    return ["pretrain", str(p.tmp / "broken.yaml")]


@case("no recipe at all", "no recipe was named", "such as pretrain/bert-tiny", "nothing")
def _(p):
    return ["pretrain"]


@case("a forgotten recipe", "no recipe was named", "jaxssl pretrain pretrain/bert-tiny out=x")
def _(p):
    return ["pretrain", "out=x"]


@case("several keys missing in a recipe", "a required key is missing", "give out=...", "4 errors")
def _(p):
    (p.tmp / "empty.yaml").write_text("train: {steps: 5}")
    return ["pretrain", str(p.tmp / "empty.yaml")]


@case("checksums of a tokenizer", "no checksums to compare", "jaxssl inspect")
def _(p):
    return ["inspect", str(p.words / "tokenizer"), "--verify"]


@case("nothing to inspect", "nothing to inspect", "nowhere", "no such path")
def _(p):
    return ["inspect", str(p.tmp / "nowhere")]


@case("no batches to evaluate", "out of range", "evaluation.every, batches", "batches >= 1")
def _(p):
    return p.pretrain("evaluation.batches=0")


@case("an impossible profile", "a start before its stop", "profile.start, stop", "(5, 3)")
def _(p):
    return p.pretrain("profile.start=5", "profile.stop=3")


@case("processes by halves", "by halves", "distributed.coordinator", "localhost:1234")
def _(p):
    return p.pretrain("distributed.coordinator=localhost:1234")


# --- Text to text -------------------------------------------------------------------------------


def texts(p, task, rows, *overrides):
    """Tunes a causal model of bytes, which has no chat template, on rows of a table."""
    table = p.tmp / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = toy.recipe(p.bytes, p.tmp / "run", "gpt2")
    del plain["objective"]
    plain["data"] = {"tables": {"train": {"path": str(table)}, "validation_fraction": 0.2}}
    plain["data"] |= {"max_length": 16, "batch_size": 8}
    plain |= {"task": {"name": task}, "tokenizer": str(p.bytes / "tokenizer")}
    return ["finetune", str(toy.write_recipe(p.tmp / "recipe.json", plain)), *overrides]


PAIRS = [{"text": "the cat", "target": "a dog"}] * 20
TALK = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "a dog"}]


@case("a decoder that is to denoise", "one stack", "objective.name=denoising", "t5, bart")
def _(p):
    return p.pretrain("objective.name=denoising", kind="gpt2")


@case("targets longer than positions", "longer than the model's positions", "task.max_target_len")
def _(p):
    return texts(p, "seq2seq", PAIRS, "task.max_target_length=33")


@case("an empty target", "a text is empty", "rows.jsonl:4, column target", "remove the row")
def _(p):
    return texts(p, "seq2seq", [*PAIRS[:3], {"text": "the cat", "target": " "}, *PAIRS])


def talk(p, talks, template):
    (p.tmp / "chat.jinja").write_text(template)
    rows = [{"messages": each} for each in talks]
    return texts(p, "chat", rows, f"task.template={p.tmp / 'chat.jinja'}")


PLAIN = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@case("a chat without an answer", "without an answer", "rows.jsonl:3", "take it out")
def _(p):
    return talk(p, [TALK, TALK, TALK[:1], *[TALK] * 20], PLAIN)


@case("a template that fails", "template fails", "TemplateError: only questions", "task.template")
def _(p):
    fails = "{% if messages[0].content == 'a' %}{{ raise_exception('only questions') }}{% endif %}"
    return talk(p, [TALK] * 20, fails + PLAIN)


@case("a template that fails on one line", "template fails", "rows.jsonl:2", "UndefinedError")
def _(p):
    fails = "{% if messages[0].content == 'b' %}{{ nobody.name }}{% endif %}"
    other = [{"role": "user", "content": "b"}, TALK[1]]
    return talk(p, [TALK, other, *[TALK] * 20], fails + PLAIN)


@case("a template that leaves its sandbox", "template fails", "SecurityError", "unsafe")
def _(p):
    return talk(p, [TALK] * 20, "{{ ''.__class__.__mro__[1].__subclasses__() }}")


@case("a template that is no text", "chat template's file is no text", "chat.jinja", "UTF-8")
def _(p):
    command = talk(p, [TALK] * 20, PLAIN)
    (p.tmp / "chat.jinja").write_bytes(b"\xff\xfe{{")
    return command


@case("no template", "no chat template", "where:    tokenizer", "task.template, or --template")
def _(p):
    return texts(p, "chat", [{"messages": TALK}] * 20)


@case("a stop string that cannot occur", "a stop string cannot occur", "where:    stop", "UNK")
def _(p):
    """The tokenizer has no piece for it."""
    plain = toy.recipe(p.words, p.tmp / "gpt", "gpt2")
    plain |= {"train": {"steps": 5}, "evaluation": {"every": 0}}
    assert cli.main(["pretrain", str(toy.write_recipe(p.tmp / "gpt.json", plain))]) == 0
    return ["generate", str(p.tmp / "gpt"), "the cat", "--stop", "\u4e16\u754c"]


# --- Running them -----------------------------------------------------------------------------


def array_file(run_dir: Path, step: int) -> Path:
    """The largest data file of a checkpoint."""
    files = (run_dir / "checkpoints" / str(step) / "state").rglob("d/*")
    return max(files, key=lambda path: path.stat().st_size)


def spoil_token(shard: Path, position: int) -> None:
    """Puts an id that no vocabulary has at a position of a shard of two-byte tokens."""
    tokens = np.fromfile(shard, np.uint16)
    tokens[position] = 65535
    tokens.tofile(shard)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory) -> Path:
    """A finished run; tests get copies of it."""
    tmp = tmp_path_factory.mktemp("finished")
    assert cli.main(trained_command(tmp / "run", words, tmp)) == 0
    return tmp / "run"


@pytest.fixture
def place(tmp_path, words, byte_store, finished, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    trained = tmp_path / "trained"
    shutil.copytree(finished, trained)
    for name in ("run.json", "config.yaml"):  # the run is at another place now
        file = trained / name
        file.write_text(file.read_text().replace(str(finished), str(trained)))
    seal_run(trained)
    return Place(tmp_path, words, byte_store, trained)


def check_message(err: str, told: list[str]) -> None:
    assert "Traceback" not in err
    assert "error: " in err
    for part in ("where:", *told):
        assert part in err, f"{part!r} is not in:\n{err}"
    assert "got:" in err or "expected:" in err


@pytest.mark.parametrize(("name", "make", "told"), CASES, ids=[name for name, _, _ in CASES])
def test_a_mistake_is_told_in_full_and_costs_nothing(name, make, told, place, capsys):
    arguments = make(place)
    before = contents(place.tmp)
    assert cli.main(arguments) == 2
    check_message(capsys.readouterr().err, told)
    after = contents(place.tmp)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_while_saving_keeps_the_step_before(place, capsys):
    """Files may not grow beyond 20 kB here, which only the state of a checkpoint does."""
    out = place.tmp / "run"
    arguments = place.pretrain("train.steps=10", "logging.every=100", "evaluation.every=100")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code = cli.main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert code == 2, err
    check_message(
        err, ["the checkpoint of step 5 could not be saved", "free space", "File too large"]
    )
    assert list((out / "checkpoints").iterdir()) == []
    assert cli.main(arguments) == 0  # with room again the same command goes on
    assert (out / "checkpoints" / "10" / "manifest.json").is_file()


def test_an_edit_is_accepted_by_sealing_the_run_anew(place, capsys):
    config = place.trained / "config.yaml"
    config.write_text(config.read_text() + "# edited on purpose\n")
    assert cli.main(["inspect", str(place.trained)]) == 2
    assert "jaxssl seal" in capsys.readouterr().err
    assert cli.main(["seal", str(place.trained)]) == 0
    assert f"accepted as it is now: {config}" in capsys.readouterr().out
    assert cli.main(["inspect", str(place.trained), "--verify"]) == 0
    assert cli.main(["seal", str(place.tmp)]) == 2
    assert "neither a run nor a token store" in capsys.readouterr().err
