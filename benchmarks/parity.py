"""How near every family is to `transformers` on torch: the table of docs/models.md."""

import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"


def run() -> None:
    """Prints the largest relative differences of random models, over both sides of padding."""
    sys.path[:0] = [str(TESTS), str(TESTS / "checkpoint")]
    import hf_models
    import transformers
    from test_hf_parity import differences

    transformers.utils.logging.disable_progress_bar()
    print(f"{'':<28}{'hidden states':>15}{'logits':>10}{'loss':>10}{'gradients':>11}")
    with tempfile.TemporaryDirectory() as scratch:
        for case in hf_models.CASES:
            sides = [differences(case, side, Path(scratch))[0] for side in ("right", "left")]
            worst = {what: max(side[what] for side in sides) for what in sides[0]}
            print(
                f"{case:<28}{worst['hidden states']:>15.1e}{worst['logits']:>10.1e}"
                f"{worst['loss']:>10.1e}{worst['gradients']:>11.1e}",
                flush=True,
            )
    print("target: 1e-5, of gradients 1e-4")
