"""How near every family is to `transformers` on torch: the table of docs/models.md; and where
greedy texts in float32 first depart from those of float64 there."""

import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"


def run() -> None:
    """Prints the largest relative differences of random models, over both sides of padding."""
    sys.path[:0] = [str(TESTS), str(TESTS / "checkpoint")]
    import hf_encoder_decoders as two_stacks
    import hf_models
    import transformers
    from test_hf_parity import differences

    def show(case: str, found: list[dict[str, float]]) -> None:
        worst = {what: max(each[what] for each in found) for what in found[0]}
        print(
            f"{case:<28}{worst['hidden states']:>15.1e}{worst['logits']:>10.1e}"
            f"{worst['loss']:>10.1e}{worst['gradients']:>11.1e}",
            flush=True,
        )

    transformers.utils.logging.disable_progress_bar()
    print(f"{'':<28}{'hidden states':>15}{'logits':>10}{'loss':>10}{'gradients':>11}")
    with tempfile.TemporaryDirectory() as scratch:
        for case in hf_models.CASES:
            show(case, [differences(case, side, Path(scratch))[0] for side in ("right", "left")])
        for case in two_stacks.CASES:
            show(case, [two_stacks.differences(case, Path(scratch))[0]])
    print("target: 1e-5, of gradients 1e-4")
    adapters()
    departures()


def adapters() -> None:
    """Prints, for each family and method that PEFT has, how far hidden states and first gradients
    are from those of PEFT's on torch, and a merged model's from ours: the largest over methods."""
    sys.path[:0] = [str(TESTS), str(TESTS / "transfer" / "peft")]
    import jax
    import test_files as of_modules
    import test_virtual_files as virtual
    import transformers
    from peft_cases import CASES

    jax.config.update("jax_platforms", "cpu")
    transformers.utils.logging.disable_progress_bar()
    plain = ("lora", "everywhere", "ia3", "dora")  # whose gradients files can hold
    fused = ("gpt2", "modernbert")  # where zeros of our files have gradients in PEFT
    print(f"\n{'adapters, float64':<28}{'from PEFT':>15}{'merged':>10}{'gradients':>16}")
    with tempfile.TemporaryDirectory() as scratch:
        root, number = Path(scratch), 0
        for method in of_modules.METHODS:
            for case in CASES:
                out = root / "out" / str(number := number + 1) / "adapter"
                out.parent.mkdir(parents=True)
                found = of_modules.differences(case, method, root, out)
                slope = (
                    of_modules.gradient_difference(case, method, root, out)
                    if method in plain and case not in fused
                    else None
                )
                slope = "" if slope is None else f"{slope:.1e}"
                row = f"{found['peft']:>15.1e}{found['merged']:>10.1e}{slope:>16}"
                print(f"{method + ', ' + case:<28}{row}", flush=True)
        for kind, cases in (("prompt", virtual.PROMPTED), ("prefix", virtual.PREFIXED)):
            for case in cases:
                out = root / "out" / str(number := number + 1) / "adapter"
                out.parent.mkdir(parents=True)
                found = virtual.difference(case, kind, root, out)
                print(f"{kind + ', ' + case:<28}{found:>15.1e}", flush=True)
    print("target: 1e-5, of what is merged 1e-12")


def departures(prompts: int = 32, new: int = 48) -> None:
    """Prints, for models of random parameters, the new token at which our float32 first differs
    from torch's float64, over many prompts: near ties of the best two logits alone may."""
    sys.path[:0] = [str(TESTS), str(TESTS / "generate")]
    import jax
    import numpy as np
    import test_transformers as cases

    from jaxssl.generate.decode import generate
    from jaxssl.generate.settings import Sampling

    cases.NEW = new
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, cases.V, 8).astype(np.int32) for _ in range(prompts)]
    print(
        f"\n{'greedy, float32':<28}{'texts that depart':>18}{'first at token':>16}{'gap there':>12}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases.CASES:
            reference, model, params = cases.both(case, Path(scratch))
            params = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float32), params)
            sampling = Sampling(max_new_tokens=new, temperature=0)
            made = generate(model, params, rows, sampling, [cases.END])
            found = []
            for row, each in zip(rows, made):
                wanted, gap = cases.theirs(reference, row)
                got = each.tokens.tolist()
                if got != wanted:
                    pairs = enumerate(zip([*got, None], [*wanted, None]))
                    found.append((next(i for i, (a, b) in pairs if a != b), gap))
            first, gap = min(found, default=(None, None))
            where = "none" if first is None else f"{first + 1}"
            print(
                f"{case:<28}{f'{len(found)} of {prompts}':>18}{where:>16}"
                f"{'' if gap is None else f'{gap:.1e}':>12}",
                flush=True,
            )
