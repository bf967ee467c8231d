"""Fine-tuning: what freezing saves, and the same classifier with `transformers.Trainer`."""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import interleave, ratio, spread

LAYERS, WIDTH, HEADS, LENGTH, ROWS, VOCABULARY = 4, 256, 4, 128, 32, 8192
LABELS, EPOCHS, LEARNING_RATE = 8, 3, 5e-4
LORA = {"lora, query and value": 0.82, "lora, all-linear": 0.95}
"""Targets: of a full step."""
BEYOND = {"lora, query and value": 0.09, "lora, all-linear": 0.22}
"""Targets: how much more of a full step than BitFit's."""
TARGETS = {"bottom half frozen": 0.72, "head, encoding": 0.40, "head, cached": 0.02}


def run() -> None:
    """Prints step times of partly frozen models against full ones, and examples/s against
    PyTorch."""
    freezing()
    adapters()
    with tempfile.TemporaryDirectory() as scratch:
        against_trainer(Path(scratch))


# --- What freezing saves ------------------------------------------------------------------------


def _classifier(
    trained: Any, features: bool = False, method: Any = None, segments: Any = (LAYERS // 2,) * 2
) -> Any:
    """A call that trains one step on random rows, with the parameters that `trained` chooses; its
    `trained` is how many they are, its `memory` what the compiled step takes in bytes."""
    import jax
    import jax.numpy as jnp

    from jaxssl.core.names import split
    from jaxssl.models.adapters import Attached
    from jaxssl.models.bert import BertConfig
    from jaxssl.models.layers import unbox
    from jaxssl.models.model import Model, num_parameters
    from jaxssl.optim.adamw import AdamW
    from jaxssl.optim.build import make_optimizer
    from jaxssl.parallel.compiler import compiler_options
    from jaxssl.parallel.mesh import MeshConfig, make_mesh
    from jaxssl.program.program import Program, Stream
    from jaxssl.program.state import first_state
    from jaxssl.program.step import Constants, make_train_step
    from jaxssl.tasks.classify import Classify

    task = Classify(labels=tuple(map(str, range(LABELS))), pooling="mean")
    shape = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS)
    shape |= dict(intermediate_size=4 * WIDTH, max_positions=LENGTH)
    config = BertConfig(**shape, pooler=False, unroll=True, segments=segments)  # type: ignore[arg-type]
    attached = () if method is None else (Attached("default", method),)
    model = Model(config, task.heads, adapters=attached)
    optimizer, schedule = make_optimizer(AdamW(), 1000, 1)
    batch = _rows(1 if features else LENGTH)
    if features:
        batch["features"] = jnp.ones((ROWS, 1, WIDTH), jnp.float32)
    program = Program(
        model=model,
        streams=(Stream.of(task, batch),),
        optimizer=optimizer,
        schedule=schedule,
        vocabulary=_vocabulary(),
        mesh=make_mesh(MeshConfig()),
    )
    params, frozen = split(unbox(jax.jit(model.init)(jax.random.key(0))), trained)
    state = jax.jit(lambda params: first_state(params, {}, optimizer, False))(params)
    options = dict(compiler_options(program.mesh, through_frozen=method is not None))
    step = make_train_step(program, ("",))
    step = jax.jit(step, donate_argnums=0, compiler_options=options or None)
    batches, constants = {"": jax.device_put(batch)}, Constants(frozen=frozen)
    held = {"state": state}

    def call() -> None:
        held["state"], _ = step(held["state"], batches, constants)
        jax.block_until_ready(held["state"])

    found: Any = step.lower(state, batches, constants).compile().memory_analysis()
    kept = found.argument_size_in_bytes - found.alias_size_in_bytes
    call.memory = kept + found.output_size_in_bytes + found.temp_size_in_bytes  # type: ignore[attr-defined]
    call.trained = num_parameters(params)  # type: ignore[attr-defined]
    return call


def _encoder() -> Any:
    """A call that encodes one batch, as each example is encoded once."""
    import jax

    from jaxssl.models.bert import BertConfig
    from jaxssl.models.layers import unbox
    from jaxssl.models.model import Model
    from jaxssl.tasks.classify import Classify
    from jaxssl.train.encode_once import make_feature_step

    task: Any = Classify(labels=tuple(map(str, range(LABELS))), pooling="mean")
    shape = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS)
    shape |= dict(intermediate_size=4 * WIDTH, max_positions=LENGTH)
    model = Model(BertConfig(**shape, pooler=False, unroll=True), task.heads)  # type: ignore[arg-type]
    params = unbox(jax.jit(model.init)(jax.random.key(0)))
    step, batch = jax.jit(make_feature_step(model, task)), jax.device_put(_rows(LENGTH))
    return lambda: jax.block_until_ready(step(params, batch))


def freezing() -> None:
    """Times a step of each way of training, interleaved with the full one."""
    head = lambda path: path.startswith("classify")
    upper = lambda path: head(path) or f"layers[{LAYERS // 2}:" in path
    sides = {
        "full": _classifier(lambda path: True),
        "bottom half frozen": _classifier(upper),
        "head, encoding": _encoder(),
        "head, cached": _classifier(head, features=True),
    }
    for call in sides.values():
        call()
    samples = interleave(sides, rounds=7, calls=3)
    print(f"{'a step of 32 x 128':<24}{'ms':>9}{'spread':>14}{'of full':>9}{'target':>9}")
    for name, times in samples.items():
        share, _, _ = ratio(samples["full"], times)
        target = f"{TARGETS[name]:>9.2f}" if name in TARGETS else ""
        middle = 1e3 * statistics.median(times)
        print(f"{name:<24}{middle:>9.1f}{spread(times):>14}{share:>9.3f}{target}")


def adapters() -> None:
    """Times a step of each method, interleaved with the full one, and says what it takes."""
    from jaxssl.transfer.peft.bottleneck import Bottleneck
    from jaxssl.transfer.peft.ia3 import Ia3
    from jaxssl.transfer.peft.lora import Lora
    from jaxssl.transfer.peft.prefix import Prefix

    def own(path: str) -> bool:
        return path.split("/")[0] in ("adapters", "classify")

    def biases(path: str) -> bool:
        return path.endswith("/bias") or own(path)

    methods = {
        "lora, query and value": Lora(),
        "lora, all-linear": Lora(targets=("all-linear",)),
        "dora, query and value": Lora(magnitude=True),
        "bottleneck": Bottleneck(),
        "ia3": Ia3(),
        "prefix": Prefix(),
    }
    sides = {
        "full": _classifier(lambda path: True, segments=()),
        "bitfit": _classifier(biases, segments=()),
        **{name: _classifier(own, method=m, segments=()) for name, m in methods.items()},
    }
    for call in sides.values():
        call()
    samples = interleave(sides, rounds=7, calls=3)
    bitfit, _, _ = ratio(samples["full"], samples["bitfit"])
    columns = f"{'ms':>9}{'spread':>14}{'of full':>9}{'target':>9}{'over bitfit':>13}{'target':>8}"
    print(f"\n{'a step of 32 x 128':<24}{columns}{'trained':>12}{'MiB':>8}")
    for name, times in samples.items():
        share, _, _ = ratio(samples["full"], times)
        target = f"{LORA[name]:.2f}" if name in LORA else ""
        beyond = f"{BEYOND[name]:.2f}" if name in BEYOND else ""
        middle, call = 1e3 * statistics.median(times), sides[name]
        row = f"{middle:>9.1f}{spread(times):>14}{share:>9.3f}{target:>9}{share - bitfit:>13.3f}"
        print(f"{name:<24}{row}{beyond:>8}{call.trained:>12,}{call.memory / 2**20:>8.0f}")


def _vocabulary() -> Any:
    from jaxssl.core.types import Vocabulary

    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    starts = np.ones(VOCABULARY, bool)
    return Vocabulary(size=VOCABULARY, special_ids=special, document_end=3, word_starts=starts)


def _rows(length: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (ROWS, length)
    return {
        "tokens": generator.integers(5, VOCABULARY, shape).astype(np.int32),
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (ROWS, 1)),
        "token_types": np.zeros(shape, np.int32),
        "example_id": np.stack([np.zeros(ROWS), np.arange(ROWS)], 1).astype(np.uint32),
        "epoch": np.zeros(ROWS, np.int32),
        "example_weights": np.ones(ROWS, np.float32),
        "labels": generator.integers(0, LABELS, ROWS).astype(np.int32),
    }


# --- Against transformers.Trainer ---------------------------------------------------------------


def against_trainer(scratch: Path) -> None:
    """The same network from scratch, telling two libraries' docstrings apart: examples/s of the
    last epoch, when everything is compiled and warm, and test accuracy."""
    from jaxssl.data.corpus.libraries import write_libraries
    from jaxssl.data.corpus.sources import Docstrings
    from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_tokenizer

    source = Docstrings(max_bytes=4_000_000).collected(scratch)
    tables = write_libraries(
        scratch / "docstrings.jsonl", scratch / "tables", labels=2, per_label=800
    )
    out = str(scratch / "tokenizer")
    train_tokenizer(
        TokenizerTrainConfig(
            source=source, kind="wordpiece", vocab_size=4096, lowercase=True, out=out
        )
    )
    sides: dict[str, list[tuple[float, float]]] = {"ours": [], "Trainer": []}
    for attempt in range(3):
        sides["ours"].append(_ours(scratch, tables, out, attempt))
        sides["Trainer"].append(_theirs(scratch, tables, out, attempt))
    print(f"\n{'fine-tuning, real text':<24}{'examples/s':>12}{'accuracy':>10}{'deviation':>11}")
    for name, values in sides.items():
        speed, accuracy = (np.array(x) for x in zip(*values))
        print(
            f"{name:<24}{np.median(speed):>12.1f}{accuracy.mean():>10.3f}{accuracy.std(ddof=1):>11.3f}"
        )
    each = [a[0] / b[0] for a, b in zip(sides["ours"], sides["Trainer"])]
    print(f"ratio {statistics.median(each):.2f} ({min(each):.2f}..{max(each):.2f}), target 1.25")


def _ours(scratch: Path, tables: Path, tokenizer: str, seed: int) -> tuple[float, float]:
    """Examples a second in the last epoch, and the test accuracy."""
    from jaxssl.run.recipes import FINETUNE, load_config
    from jaxssl.run.train import train_run
    from jaxssl.train.metrics_file import read_metrics

    shape = f"{{name: bert, vocab_size: 4096, hidden_size: {WIDTH}, num_layers: {LAYERS}, "
    shape += f"num_heads: {HEADS}, intermediate_size: {4 * WIDTH}, max_positions: {LENGTH}, "
    shape += "unroll: true, activation: gelu}"
    overrides = [
        f"out={scratch / f'ours{seed}'}",
        "init=null",
        f"model={shape}",
        f"tokenizer={tokenizer}",
        *(f"data.tables.{s}.path={tables / s}.jsonl" for s in ("train", "validation", "test")),
        f"data.max_length={LENGTH}",
        f"data.batch_size={ROWS}",
        "data.row_lengths=8",
        "task.pooling=cls",
        f"optimizer.learning_rate={LEARNING_RATE}",
        f"train={{epochs: {EPOCHS}, seed: {seed}}}",
        "evaluation.every_epochs=null",
        "evaluation.every=0",
        "logging={progress: false, tensorboard: false, every: 1}",
    ]
    config = load_config(["finetune/library"], overrides, FINETUNE)
    outcome = train_run(config, lambda text: None)
    rows = [row for row in read_metrics(Path(config.out)) if row["kind"] == "train"]
    assert outcome.step == len(rows)
    last_epoch = rows[-len(rows) // EPOCHS :]
    seconds = sum(row["step_seconds"] for row in last_epoch)
    examples = len((tables / "train.jsonl").read_text().splitlines())
    scores = json.loads((Path(config.out) / "scores.json").read_text())["splits"]["test"]["scores"]
    return examples / seconds, scores["accuracy"]


def _theirs(scratch: Path, tables: Path, tokenizer: str, seed: int) -> tuple[float, float]:
    """The same with `transformers.Trainer`: batches of similar length, padded to the longest."""
    import transformers

    library = transformers.PreTrainedTokenizerFast.from_pretrained(tokenizer)
    labels: dict[str, int] = {}
    splits = {}
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (tables / f"{split}.jsonl").read_text().splitlines()]
        splits[split] = []
        for row in rows:
            encoded = library(row["text"], truncation=True, max_length=LENGTH)
            encoded["label"] = labels.setdefault(row["library"], len(labels))
            splits[split].append(dict(encoded))
    transformers.set_seed(seed)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=4096,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
            num_labels=len(labels),
        )
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(scratch / f"theirs{seed}"),
        per_device_train_batch_size=ROWS,
        per_device_eval_batch_size=ROWS,
        num_train_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        adam_beta2=0.98,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    collator = transformers.DataCollatorWithPadding(library)
    clock = transformers.TrainerCallback()
    begun: list[float] = []
    clock.on_epoch_begin = lambda *_, **__: begun.append(time.perf_counter())
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=splits["train"],
        data_collator=collator,
        callbacks=[clock],
    )
    trainer.train()
    seconds = time.perf_counter() - begun[-1]
    found = trainer.predict(splits["test"])  # in an order of its own: by length
    right = np.argmax(found.predictions, axis=-1) == found.label_ids
    return len(splits["train"]) / seconds, float(right.mean())
