"""`jaxssl verify`: says equal of every family, and different of what is."""

import dataclasses

import pytest

pytest.importorskip("torch", reason="verify compares with torch")

import hf_models  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from jaxssl import cli  # noqa: E402
from jaxssl.checkpoint.hf import directory  # noqa: E402
from jaxssl.commands import verify  # noqa: E402


@pytest.mark.parametrize(
    ("case", "head"),
    [
        ("bert", ""),
        ("bert", "ForPreTraining"),
        ("bert", "ForNextSentencePrediction"),
        ("roberta", "ForSequenceClassification"),
        ("distilbert", "ForQuestionAnswering"),
        ("electra", ""),
        ("electra", "ForPreTraining"),
        ("modernbert", ""),
        ("qwen3", "ForSequenceClassification"),
    ],
)
def test_the_same_model_is_equal(case, head, tmp_path, capsys):
    path = hf_models.save(hf_models.reference(case, head), tmp_path / "model")
    assert cli.main(["verify", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    sentences = "next sentence's logits"
    logits = {
        ("bert", "ForPreTraining"): ["logits", sentences],
        ("bert", "ForNextSentencePrediction"): [sentences],
    }
    compared = ["hidden states", *logits.get((case, head), ["logits"])]
    assert [line.split(";")[0] for line in said] == [f"{what}: equal" for what in compared]


@pytest.mark.parametrize("family", ["T5", "MBart"])
def test_both_stacks_of_an_encoder_decoder_are_compared(family, tmp_path, capsys):
    shape = (
        dict(d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, decoder_start_token_id=0)
        if family == "T5"
        else dict(
            d_model=24,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=3,
            decoder_attention_heads=3,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=32,
        )
    )
    config = getattr(transformers, f"{family}Config")(vocab_size=61, **shape)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path / "model")
    assert cli.main(["verify", str(tmp_path / "model")]) == 0
    said = [line.split(";")[0] for line in capsys.readouterr().out.splitlines()]
    wanted = ("encoder's hidden states", "decoder's hidden states", "logits")
    assert said[-3:] == [f"{what}: equal" for what in wanted]


def test_a_body_alone_has_no_logits(tmp_path):
    path = hf_models.save(hf_models.reference("llama", "Model"), tmp_path / "model")
    assert [found.what for found in verify.verify(path)] == ["hidden states"]


def test_a_window_that_the_rows_do_not_reach_is_told(tmp_path, capsys):
    path = hf_models.save(hf_models.reference("mistral, window"), tmp_path / "model")
    assert cli.main(["verify", str(path), "--length", "4"]) == 0
    assert "it was not compared (--length 8 does)" in capsys.readouterr().out
    assert cli.main(["verify", str(path), "--length", "5"]) == 0  # a token sees four before it
    assert "it was not compared" in capsys.readouterr().out
    assert cli.main(["verify", str(path), "--length", "6"]) == 0
    assert "window" not in capsys.readouterr().out
    assert cli.main(["verify", str(path)]) == 0
    assert "window" not in capsys.readouterr().out
    assert cli.main(["verify", str(path), "--length", "99"]) == 2
    assert "at most model.max_positions=32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "window"),
    [
        ("modernbert", {"local_attention": 10}),
        ("mistral, window", {"sliding_window": 9}),
        ("qwen2, window above", {"sliding_window": 9}),
    ],
)
def test_windows_much_narrower_than_the_rows_are_equal(case, window, tmp_path, capsys):
    """Then local layers compute the blocks around the diagonal alone."""
    changes = {**window, "max_position_embeddings": 90}
    path = hf_models.save(hf_models.reference(case, **changes), tmp_path / "model")
    assert cli.main(["verify", str(path), "--length", "90"]) == 0
    assert "window" not in capsys.readouterr().out


def test_another_model_is_told(tmp_path, monkeypatch, capsys):
    path = hf_models.save(hf_models.reference("llama"), tmp_path / "model")

    def wrong(given):
        found = directory.open_model(given)
        config = dataclasses.replace(found.config, rotary_theta=100.0)
        return dataclasses.replace(found, config=config)

    monkeypatch.setattr(verify, "open_model", wrong)
    assert cli.main(["verify", str(path)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
