"""Training steps compiled for TPU slices that are not there, by libtpu on this machine: what the
compiler estimates for each chip, beside what MaxText's step takes by the same compiler.

A program is compiled in a process of its own, with the very code that trains: its recipe, its rows,
its optimizer. `python -m benchmarks.pods PREFIX` compiles those whose name begins so; libtpu comes
with the extra `plan`.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.steps import HERE, made_stores

BF16 = ("precision.compute=bfloat16", "precision.reduce=bfloat16")
LLAMA = (
    "model.name=llama",
    "model.tied=false",
    "model.remat=full",
    "objective={name: causal_lm, chunk: 512}",
    "data.rows.name=windows",
    *BF16,
)
ONE_BILLION = (
    *LLAMA,
    "model.vocab_size=32768",
    "model.hidden_size=2048",
    "model.num_layers=24",
    "model.num_heads=16",
    "model.num_kv_heads=16",
    "model.intermediate_size=5632",
    "model.max_positions=2048",
    "data.sequence_length=2048",
)
SEVEN_BILLION = (
    *LLAMA,
    "model.vocab_size=32000",
    "model.hidden_size=4096",
    "model.num_layers=32",
    "model.num_heads=32",
    "model.num_kv_heads=32",
    "model.intermediate_size=11008",
    "model.max_positions=4096",
    "data.sequence_length=4096",
)
BERT_LARGE = (
    "model.attention_dropout=0.0",
    "model.remat=full",
    "data.sequence_length=512",
    "data.batch_size=512",
    *BF16,
)
MODERN = ("model.remat=full", *BF16)
T5 = ("model.remat=full", "data.batch_size=512", "mesh.data=1", "mesh.fsdp=16", *BF16)
T5_LARGE = (
    "model.hidden_size=1024",
    "model.num_layers=24",
    "model.decoder_layers=24",
    "model.num_heads=16",
    "model.intermediate_size=2816",
)
LORA = ("peft={name: lora, rank: 16, targets: [all-linear]}", "optimizer.learning_rate=2e-5")
PLAIN = ("mesh.compiler={xla_tpu_scoped_vmem_limit_kib: null}",)
"""Without what the peer's row is compiled without, too."""


@dataclass(frozen=True)
class Pod:
    """A program on a slice.

    Attributes:
      recipe: of `configs/`, and what is changed in it.
      peer: MaxText 0.2.5's seconds, GiB and GB, compiled by the same libtpu 0.0.52; not ours.
      store: that it reads.
      base: whether it starts from a model in files, of which nothing but their headers is there.
    """

    topology: str
    recipe: str
    changes: tuple[str, ...]
    peer: str = "-"
    store: str = "words"
    base: bool = False


CAUSAL, BERT, MODERNBERT = (
    "pretrain/llama-1b",
    "pretrain/bert-large",
    "pretrain/modernbert-base",
)
SPANS = "objectives/t5-1.1-base"
WIDE = ("data.batch_size=4096", "mesh.data=1", "mesh.fsdp=1024", "mesh.tensor=4")
FSDP64 = ("mesh.data=1", "mesh.fsdp=64")
IN_FOUR = (*ONE_BILLION, "data.batch_size=1024", *FSDP64, "train.accumulation=4")
"""Four microbatches."""
PODS = {
    "tiny": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (
            *LLAMA,
            "model.vocab_size=4096",
            "model.hidden_size=256",
            "model.num_layers=2",
            "model.num_heads=2",
            "model.num_kv_heads=2",
            "model.intermediate_size=512",
            "model.max_positions=256",
            "data.sequence_length=256",
            "data.batch_size=256",
            *FSDP64,
        ),
    ),
    "1.37B": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (*ONE_BILLION, "data.batch_size=256", *FSDP64, *PLAIN),
        peer="0.270, 9.5, 2.10",
    ),
    "1.37B vmem": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (*ONE_BILLION, "data.batch_size=256", *FSDP64),
        peer="0.234, 9.5, 2.10",
    ),
    "7B": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (*SEVEN_BILLION, "data.batch_size=256", *FSDP64, *PLAIN),
        peer="2.51, 48.5, 9.2",
    ),
    "7B vmem": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (*SEVEN_BILLION, "data.batch_size=256", *FSDP64),
        peer="2.06",
    ),
    "7B 4096": Pod(
        "v5p:16x16x16",
        CAUSAL,
        (*SEVEN_BILLION, *WIDE, *PLAIN),
        peer="0.729, 52.9, 2.43",
    ),
    "7B 4096 vmem": Pod("v5p:16x16x16", CAUSAL, (*SEVEN_BILLION, *WIDE), peer="0.674"),
    "7B LoRA": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (*SEVEN_BILLION, "data.batch_size=256", *FSDP64, *LORA),
        base=True,
    ),
    "7B LoRA nf4": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (*SEVEN_BILLION, "data.batch_size=256", *FSDP64, *LORA, "precision.frozen=nf4"),
        base=True,
    ),
    "T5 1.1 base": Pod("v5e:4x4", SPANS, T5, store="sentinels"),
    "T5 1.1 large": Pod("v5e:4x4", SPANS, (*T5, *T5_LARGE), store="sentinels"),
    "weak 16": Pod(
        "v5p:2x2x4", CAUSAL, (*ONE_BILLION, "data.batch_size=64", "mesh.data=1", "mesh.fsdp=16")
    ),
    "weak 512": Pod(
        "v5p:8x8x8", CAUSAL, (*ONE_BILLION, "data.batch_size=2048", "mesh.data=8", "mesh.fsdp=64")
    ),
    "weak 4096": Pod(
        "v5p:16x16x16",
        CAUSAL,
        (*ONE_BILLION, "data.batch_size=16384", "mesh.data=64", "mesh.fsdp=64"),
    ),
    "weak 2 slices": Pod(
        "v5p:4x4x4*2", CAUSAL, (*ONE_BILLION, "data.batch_size=512", "mesh.data=2", "mesh.fsdp=64")
    ),
    "in 4": Pod("v5p:4x4x4", CAUSAL, IN_FOUR),
    "in 4, once": Pod("v5p:4x4x4", CAUSAL, (*IN_FOUR, "mesh.gather_once=true")),
    "long rows": Pod(
        "v5p:4x4x4",
        CAUSAL,
        (
            *ONE_BILLION,
            "model.max_positions=32768",
            "data.sequence_length=32768",
            "data.batch_size=8",
            "mesh.data=1",
            "mesh.fsdp=8",
            "mesh.context=8",
        ),
    ),
    "BERT-large data": Pod("v5e:4x4", BERT, BERT_LARGE),
    "BERT-large fsdp": Pod("v5e:4x4", BERT, (*BERT_LARGE, "mesh.data=1", "mesh.fsdp=16")),
    "ModernBERT 1024": Pod(
        "v5e:4x4", MODERNBERT, (*MODERN, "data.sequence_length=1024", "data.batch_size=256")
    ),
    "ModernBERT 8192": Pod(
        "v5e:4x4", MODERNBERT, (*MODERN, "data.sequence_length=8192", "data.batch_size=32")
    ),
}
COLUMNS = (
    f"{'program':<18}{'slice':<14}{'seconds':>9}{'GiB sent':>10}{'GB temp':>9}{'GB args':>9}"
    f"{'attention':>11}{'sum':>8}{'compile':>9}  MaxText"
)


def run(prefix: str | None = None) -> None:
    """Prints a row for each program.

    Args:
      prefix: of the names of those that are compiled; None is all but `tiny`.
    """
    names = [name for name in PODS if (name.startswith(prefix) if prefix else name != "tiny")]
    print("estimates of the compiler for one chip; attention: its products at the chip's peak")
    print(COLUMNS, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = made_inputs(Path(scratch))
        for name in names:
            print(_row(name, compiled(name, made)), flush=True)


def made_inputs(scratch: Path) -> Path:
    """Token stores of made-up text, one with sentinels."""
    stores = made_stores(scratch)
    pieces, kept = stores / "sentinels-pieces", ("source.documents=blank_lines", "sentences=rule")
    source = ("source.name=text", f"source.paths=[{stores / 'text.txt'}]")
    for words in (
        ("tokenizer", f"extends={stores / 'words-pieces'}", "sentinels=100", f"out={pieces}"),
        ("prepare", f"tokenizer={pieces}", f"out={stores / 'sentinels'}", *source, *kept),
    ):
        ours = {**os.environ, "PYTHONPATH": str(HERE)}
        command = [sys.executable, "-m", "jaxssl", *words]
        subprocess.run(command, env=ours, capture_output=True, check=True)
    return stores


def made_base(model: Any, pieces: Path, out: Path) -> Path:
    """A Llama in files whose weights are a hole of zeros, which takes no room on the disk."""
    from transformers import LlamaConfig

    H, M, V = model.hidden_size, model.intermediate_size, model.vocab_size
    shutil.copytree(pieces, out)
    LlamaConfig(
        hidden_size=H,
        intermediate_size=M,
        vocab_size=V,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        max_position_embeddings=model.max_positions,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(out)
    shapes = {"model.embed_tokens": (V, H), "model.norm": (H,), "lm_head": (V, H)}
    for layer in range(model.num_layers):
        lead = f"model.layers.{layer}"
        shapes |= {f"{lead}.self_attn.{each}_proj": (H, H) for each in "qkvo"}
        shapes |= {f"{lead}.mlp.{each}_proj": (M, H) for each in ("gate", "up")}
        shapes |= {f"{lead}.mlp.down_proj": (H, M)}
        shapes |= {f"{lead}.{each}_layernorm": (H,) for each in ("input", "post_attention")}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        place = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        header[f"{name}.weight"] = place
    text = json.dumps(header).encode()
    with open(out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return out


def _row(name: str, made: dict[str, float]) -> str:
    pod = PODS[name]
    total = made["seconds"] + made["attention"]
    return (
        f"{name:<18}{pod.topology:<14}{made['seconds']:>9.3f}{made['sent'] / 2**30:>10.1f}"
        f"{made['temporaries'] / 1e9:>9.2f}{made['arguments'] / 1e9:>9.2f}"
        f"{made['attention']:>11.3f}{total:>8.3f}{made['compile']:>8.0f}s  {pod.peer}"
    )


def compiled(name: str, stores: Path) -> dict[str, float]:
    """What a program takes, compiled in a process of its own."""
    from jaxssl.plan.topology import ENVIRONMENT

    ours = {**os.environ, **ENVIRONMENT}
    ours["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "benchmarks.pods", name, str(stores)]
    done = subprocess.run(words, env=ours, cwd=HERE, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {name} does not compile")
    return json.loads(done.stdout.splitlines()[-1])


def _compile(name: str, stores: str) -> dict[str, float]:
    """In the process that compiles."""
    from jaxssl.parallel.rules import use_layout
    from jaxssl.plan.estimate import attention_seconds, compile_step, estimate
    from jaxssl.plan.topology import topology
    from jaxssl.run.planned import plan_program
    from jaxssl.run.recipes import load_config

    pod = PODS[name]
    place = topology(pod.topology)
    given = [f"data.store={stores}/{pod.store}", *pod.changes]
    if not pod.base:
        config = load_config([pod.recipe], given)
    else:
        config = load_config([pod.recipe], [x for x in given if not x.startswith("peft")])
        base = Path(stores) / name.replace(" ", "-")
        if not base.exists():
            made_base(config.model, Path(stores) / f"{pod.store}-pieces", base)
        config = load_config([pod.recipe], [*given, f"init.from={base}"])
    program = plan_program(config, place.devices())
    with use_layout(program.mesh, config.mesh.layout()):
        started = time.perf_counter()
        step = compile_step(program)
        seconds = time.perf_counter() - started
        if kept := os.environ.get("JAXSSL_KEEP_HLO"):
            Path(kept, f"{name.replace(' ', '-')}.hlo").write_text(step.text)
        found = estimate(step, place.chip)
    model, data = config.model, config.data
    shares = program.mesh.shape
    attention = attention_seconds(
        place.chip,
        rows=data.batch_size // (shares["data"] * shares["fsdp"]),
        length=data.sequence_length,
        shards=shares.get("context", 1),
        heads=model.num_heads // shares["tensor"],
        head_dim=model.head_dim,
        seen=sum(
            _seen(layer.pattern, data.sequence_length) for layer in model.self_attention().layers
        ),
    )
    return {
        "seconds": found.seconds,
        "sent": found.sent,
        "temporaries": found.temporaries,
        "arguments": found.arguments,
        "attention": attention if found.kernels else 0.0,
        "compile": seconds,
        "kernels": sum(found.kernels.values()),
        **{f"sent {kind}": value for kind, value in found.wire.items()},
    }


def _seen(pattern, length: int) -> float:
    """The share of all keys that a query sees, in the mean."""
    if pattern.window is not None and pattern.window < length:
        return min(1.0, (1 if pattern.causal else 2) * pattern.window / length)
    return 0.5 if pattern.causal else 1.0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(_compile(*sys.argv[1:])))
    else:
        run(*sys.argv[1:])
