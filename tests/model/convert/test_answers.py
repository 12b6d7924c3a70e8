"""A converted checkpoint answers a recording with the recorded tokens, whichever way it is asked."""

import json

import golden_decoding as decoding
import golden_world as golden
import pytest
import soundfile
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.model import ReLlmForConditionalGeneration
from re_llm.model.convert.run import convert

B, RELLM = "blsp_b_lora_audio", "rellm"
CASES = ("blsp_a_nolora", B, RELLM)
SPECIAL = golden.special()
CHATML = {SPECIAL.last: "<|endoftext|>", SPECIAL.start: "<|im_start|>", SPECIAL.end: "<|im_end|>"}
SAMPLES = range(len(golden.waves()))


def letter(token):
    """A letter for each id of the recorded vocabulary, which has no texts."""
    return CHATML.get(token, chr(0x4E00 + token))


def spelled(ids):
    return "".join(letter(token) for token in ids)


def template(sample):
    """A chat template that writes the recorded prompt of a sample around what the user says."""
    given = golden.inputs()
    around = [spelled(given[f"gen_{n}_ids"][sample][given[f"gen_{n}_mask"][sample].bool()].tolist())
              for n in ("prefix", "suffix")]  # fmt: skip
    said = "messages[-1]['content'].split('\\n\\n')[-1]"  # without the system text, which the recording has not
    return f"{around[0]}{{{{ {said} }}}}{around[1]}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    backend = Tokenizer(models.WordLevel({letter(i): i for i in range(golden.speech_id(B))}, unk_token=letter(0)))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    backend.add_special_tokens(list(CHATML.values()))
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=CHATML[SPECIAL.last], pad_token=CHATML[SPECIAL.last]
    )
    made.chat_template = template(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=CASES)
def converted(request, tokenizer, tmp_path_factory):
    case, folder = request.param, tmp_path_factory.mktemp("converted") / request.param
    encoder = golden.FOLDER / "audeering" if case == RELLM else None
    convert(golden.FOLDER / case, folder, tokenizer=tokenizer, emotion_encoder=encoder, progress=False)
    return case, folder


@pytest.fixture
def wave(tmp_path):
    def write(sample):
        path = tmp_path / f"{sample}.wav"
        soundfile.write(path, golden.inputs()[f"wav_{sample}"].numpy(), 16_000, subtype="PCM_16")
        return path

    return write


def recorded(case, sample):
    """Ids that the original said up to a stop word; the first of the row was never fed to its LLM."""
    prefix = "nocast." if case == RELLM else ""
    ids = golden.outputs(case)[f"{prefix}gen_single{sample}_ids"][0, 1:].tolist()
    return ids[: next((i for i, token in enumerate(ids) if token in SPECIAL), len(ids))]


@pytest.mark.parametrize("sample", SAMPLES)
def test_golden_tokens_through_the_command_line(converted, wave, sample):
    case, folder = converted
    (folder / "chat_template.jinja").write_text(template(sample), encoding="utf-8")
    asked = [
        "respond",
        str(wave(sample)),
        "--model",
        str(folder),
        "--max-new-tokens",
        str(decoding.new_tokens(case)),
        "--json",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (reply,) = found if isinstance(found, list) else [found]
    assert reply["response"] == spelled(recorded(case, sample))


@pytest.mark.parametrize("sample", SAMPLES)
def test_golden_tokens_through_transformers(converted, wave, sample):
    case, folder = converted
    (folder / "chat_template.jinja").write_text(template(sample), encoding="utf-8")
    said = recorded(case, sample)
    found = ask(folder, wave(sample), decoding.new_tokens(case))
    assert found[: len(said)] == said and set(found[len(said) :]) <= {*SPECIAL}


def ask(folder, path, steps):
    model, processor = AutoModelForCausalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "audio", "audio": str(path)}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    found = model.generate(**inputs, max_new_tokens=steps)
    return found[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_folder_holds_all_that_stock_tools_look_for(converted):
    case, folder = converted
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files
    assert bool(files & {"processor_config.json", "preprocessor_config.json"})
    assert ({"adapter_config.json", "adapter_model.safetensors"} <= files) == (case in (B, RELLM))
    generation = GenerationConfig.from_pretrained(folder)
    ends = [SPECIAL.end, SPECIAL.start, SPECIAL.last]
    assert generation.eos_token_id == ends and generation.pad_token_id == SPECIAL.last
    assert generation.do_sample is False


@torch.no_grad()
def test_golden_lora_through_stock_peft(tmp_path, tokenizer):
    """The PEFT files over the converted LLM alone: as in the recording with LoRA on every position."""
    convert(golden.FOLDER / B, tmp_path / "whole", tokenizer=tokenizer, progress=False)
    qwen = tmp_path / "qwen"
    qwen.mkdir()
    given = json.loads((golden.FOLDER / B / "config.json").read_text())["qwen_config"]
    (qwen / "config.json").write_text(json.dumps({**given, "model_type": "qwen"}))
    own = {k: v for k, v in golden.below(B, "qwen_model.model.").items() if ".lora_" not in k}
    torch.save(own, qwen / "pytorch_model.bin")
    convert(qwen, tmp_path / "qwen2", progress=False)
    bare = Qwen2ForCausalLM.from_pretrained(tmp_path / "qwen2").eval()
    assert isinstance(bare.config, Qwen2Config)
    ids, mask, _ = golden.text_rows()
    places = torch.arange(ids.shape[1]).expand_as(ids)
    real = mask[:, -3:].bool()

    def logits(model):
        return model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -3:][real]

    golden.close(logits(bare), golden.outputs(B)["text_logits"][:, -3:][real])
    stock = PeftModel.from_pretrained(bare, tmp_path / "whole").eval()
    expected = golden.outputs(B)["scope_global.text_logits_last3"][real]
    golden.close(logits(stock), expected)
    with stock.disable_adapter():
        assert (logits(stock) - expected).abs().max() > 1e-2
    whole = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "whole").language_model.state_dict()
    for name, value in load_file(tmp_path / "whole" / "adapter_model.safetensors").items():
        own_name = name.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert torch.equal(whole[own_name], value)
