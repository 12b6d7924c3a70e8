"""Conversion: what is read, what is refused, and that nothing half-written stays."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import golden_world as golden
import pytest
import test_tokenizer
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.model.components import load_llm
from re_llm.model.convert import plan as convert_plan
from re_llm.model.convert.run import convert

pytestmark = pytest.mark.skipif(not golden.FOLDER.is_dir(), reason=f"no recordings in {golden.FOLDER}")
A, B, RELLM = "blsp_a_nolora", "blsp_b_lora_audio", "rellm"
ranks = test_tokenizer.ranks


@pytest.fixture
def source(tmp_path):
    """A copy of the recorded BLSP-Emo with LoRA, to be spoilt."""
    return shutil.copytree(golden.FOLDER / B, tmp_path / "source", ignore=shutil.ignore_patterns("outputs*"))


def spoil(source, **changes):
    """Changes tensors of the copy: a value, or None to take it out."""
    tensors = {**load_file(source / "model.safetensors"), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, source / "model.safetensors")


def config_of(source, **changes):
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def as_pickles(source, count):
    """The same weights as `pytorch_model*.bin`."""
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    if count == 1:
        torch.save(tensors, source / "pytorch_model.bin")
        return
    placed = {}
    for i in range(count):
        file = f"pytorch_model-{i + 1:05}-of-{count:05}.bin"
        part = dict(list(tensors.items())[i::count])
        torch.save(part, source / file)
        placed |= dict.fromkeys(part, file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def as_shards(source):
    tensors = list(load_file(source / "model.safetensors").items())
    (source / "model.safetensors").unlink()
    placed = {}
    for i, part in enumerate((dict(tensors[::2]), dict(tensors[1::2]))):
        save_file(part, source / f"model-{i}.safetensors")
        placed |= dict.fromkeys(part, f"model-{i}.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def refused(source, expected, **options):
    """The conversion fails with this message and leaves nothing."""
    before = sorted(path.name for path in source.parent.iterdir())
    with pytest.raises(RellmError, match=expected) as caught:
        convert(source, source.parent / "out", progress=False, **options)
    assert sorted(path.name for path in source.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("form", ["pickle", "pickles", "shards"])
def test_other_forms_of_the_weights_give_the_same(source, tmp_path, form, monkeypatch):
    convert(source, tmp_path / "plain", progress=False)
    {"pickle": lambda s: as_pickles(s, 1), "pickles": lambda s: as_pickles(s, 3), "shards": as_shards}[form](source)
    monkeypatch.setattr(convert_plan, "SHARD_BYTES", 100_000)
    report = convert(source, tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert (report.tensors, report.lora) == (76, 28)
    expected = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "plain").state_dict()
    for name, value in ReLlmForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict().items():
        assert torch.equal(value, expected[name]), name


# --- bad input ---


def test_a_truncated_shard(source):
    as_shards(source)
    path = source / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(source, r"model-1\.safetensors is not a whole safetensors file")
    path.unlink()
    refused(source, r"model-1\.safetensors is missing")


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("place", ["../outside", "/etc/outside", "sub/folder", "..", ""])
def test_an_index_that_leads_out_of_its_folder(source, form, place):
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    save_file(tensors, source.parent / "outside.safetensors")
    torch.save(tensors, source.parent / "outside.bin")
    file = f"{place}.{form}" if place.strip(".") else place
    name = {"bin": "pytorch_model.bin.index.json", "safetensors": "model.safetensors.index.json"}[form]
    (source / name).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, file)}))
    said = refused(source, r"index\.json names a file outside of its folder")
    assert repr(file) in said


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": null}}', "{}"])
def test_a_broken_index(source, content):
    as_shards(source)
    (source / "model.safetensors.index.json").write_text(content)
    refused(source, r"index\.json|None is missing")


def test_an_index_that_names_a_tensor_which_its_shard_has_not(source):
    as_shards(source)
    path = source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["adapter.ghost"] = "model-1.safetensors"
    path.write_text(json.dumps(index))
    refused(source, r"model-1\.safetensors lacks the tensor adapter\.ghost")


def test_a_truncated_pickle(source):
    as_pickles(source, 3)
    path = source / "pytorch_model-00002-of-00003.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(source, r"pytorch_model-00002-of-00003\.bin is not a whole file of weights")


class Touch:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(source, tmp_path, zipped):
    as_pickles(source, 1)
    trap = {"weight": torch.zeros(1), "trap": Touch(tmp_path / "was-run")}
    if zipped:
        torch.save(trap, source / "pytorch_model.bin")
    else:
        (source / "pytorch_model.bin").write_bytes(pickle.dumps(trap, protocol=2))
    refused(source, r"pytorch_model\.bin .*code is never run")
    assert not (tmp_path / "was-run").exists()


def test_something_else_than_tensors_in_a_pickle(source):
    as_pickles(source, 1)
    torch.save({"epoch": 3}, source / "pytorch_model.bin")
    refused(source, r"pytorch_model\.bin holds something else than tensors")


@pytest.mark.parametrize(
    "name",
    ["qwen_model.model.transformer.h.1.attn.c_attn.bias", "adapter.speech_ln.bias", "hidden2emotion.weight",
     "qwen_model.model.transformer.h.0.mlp.w1.lora_A.default.weight"],
)  # fmt: skip
def test_a_missing_tensor(source, name):
    spoil(source, **{name: None})
    refused(source, f"source lacks the tensor {name}")


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [("qwen_model.model.transformer.h.0.attn.c_attn.weight", (190, 64), r"\[192, 64\]"),
     ("adapter.fc1.weight", (16, 64), r"\[32, 64\]"), ("hidden2emotion.weight", (4, 64), r"\[5, 64\]"),
     ("qwen_model.model.transformer.h.1.attn.c_attn.lora_B.default.weight", (192, 8), r"\[192, 4\]")],
)  # fmt: skip
def test_an_unexpected_shape(source, name, shape, needed):
    spoil(source, **{name: torch.zeros(shape)})
    refused(source, rf"model\.safetensors: {name} has shape .*, its config needs {needed}")


def test_tensors_that_share_a_buffer(source, tmp_path):
    """As some training frameworks save them."""
    tensors = load_file(source / "model.safetensors")
    flat = torch.cat([value.flatten() for value in tensors.values()])
    views = dict(zip(tensors, flat.split([value.numel() for value in tensors.values()]), strict=True))
    (source / "model.safetensors").unlink()
    torch.save({name: view.view(tensors[name].shape) for name, view in views.items()}, source / "pytorch_model.bin")
    convert(source, tmp_path / "out", progress=False)
    convert(tmp_path / "out", tmp_path / "back", to="blsp-emo", progress=False)
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


def test_quantised_weights(source):
    name = "qwen_model.model.transformer.h.0.mlp.w1.weight"
    spoil(source, **{name: torch.zeros(64, 64, dtype=torch.int8)})
    refused(source, rf"{name} is torch\.int8")


def test_an_unknown_tensor_is_listed(source, tmp_path):
    constant = "qwen_model.model.transformer.rotary_emb.inv_freq"
    spoil(source, **{"something.else": torch.zeros(3), constant: torch.zeros(8)})
    report = convert(source, tmp_path / "out", progress=False)
    assert "not known to this conversion" in report.left_out["something.else"]
    assert report.left_out[constant] == "a constant that the model computes"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"qwen_config": None}, r"config\.json is the config of an unknown model \(Blsp2Model\)"),
     ({"adapter_type": "mlp"}, r"adapter_type is 'mlp'\. Allowed: "),
     ({"lora_scope": "words"}, "lora_scope is 'words'"),
     ({"adapter_hidden_layers": -2}, "adapter_hidden_layers is -2"), ({"conv_kernel_sizes": "5,3"}, "'5,3' is not one"),
     ({"lora_config": {"r": 4, "lora_alpha": 4, "target_modules": ["wte"]}}, r"modules.0 is 'wte'\. Allowed: 'c_attn'"),
     ({"qwen_config": {"tie_word_embeddings": True}}, "tie_word_embeddings is True"),
     ({"qwen_config": {"hidden_size": "wide"}}, "hidden_size is 'wide'"), ({"num_emotions": "five"}, "num_emotions"),
     ({"whisper_config": {"d_model": -1}}, r"whisper_config\.d_model is -1\. Allowed: greater than or equal to 1")],
)  # fmt: skip
def test_an_unknown_config(source, changes, expected):
    config_of(source, **changes)
    refused(source, expected)


def test_broken_configs_and_folders(source, tmp_path):
    refused(source, "to is 'gguf'. Allowed: re-llm, blsp-emo", to="gguf")
    refused(source, "cannot become blsp-emo", to="blsp-emo")
    refused(source, "has no emotion encoder", emotion_encoder=golden.FOLDER / "audeering")
    (source / "config.json").write_text("{")
    refused(source, r"config\.json is no JSON")
    (source / "config.json").unlink()
    refused(source, r"there is no .*config\.json")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RellmError, match="not empty"):
        convert(golden.FOLDER / A, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_an_empty_target_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    convert(golden.FOLDER / A, tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "config.json").is_file()


# A limit on the size of files stands for a full disk: what cannot be written fails in the middle.
FULL = """
import resource, sys
from re_llm.cli import main
import re_llm.model.convert.run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
main()
"""


def test_a_full_disk_leaves_nothing(source):
    target = source.parent / "out"
    arguments = [sys.executable, "-c", FULL, "50000", "convert", str(source), str(target)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    file = r"model\.safetensors, with dimension_head\.weight and \d+ more"
    assert re.search(rf"{target} cannot be written: {file}: .*File too large", done.stderr)
    assert [path.name for path in source.parent.iterdir()] == ["source"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("step", "said"),
    [("re_llm.model.convert.plan.save_file", r"model\.safetensors, with"),
     ("re_llm.model.convert.run.os.replace", ""), ("transformers.PreTrainedConfig.save_pretrained", ""),
     ("transformers.GenerationConfig.save_pretrained", ""), ("peft.PeftConfig.save_pretrained", "")],
)  # fmt: skip
def test_a_failure_at_any_step_leaves_nothing(source, monkeypatch, step, said, there):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if there:
        (source.parent / "out").mkdir()
    monkeypatch.setattr(step, full)
    refused(source, rf"out cannot be written: {said}.*No space left on device")
    assert not there or not list((source.parent / "out").iterdir())


def test_a_disk_that_is_too_small_is_known_before(source, monkeypatch):
    monkeypatch.setattr("re_llm.model.convert.run.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1000))
    refused(source, "0.000.* GB to write, and 1e-06 GB free")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(source, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RellmError, match="cannot be written"):
        convert(source, tmp_path / "closed" / "out", progress=False)


def test_a_target_below_a_file(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RellmError, match="cannot be written"):
        convert(source, tmp_path / "file" / "out", progress=False)
    assert (tmp_path / "file").read_text() == "mine"


# --- emotion encoder ---


def test_an_emotion_encoder_apart_from_the_checkpoint(tmp_path):
    source = shutil.copytree(golden.FOLDER / RELLM, tmp_path / "source", ignore=shutil.ignore_patterns("outputs*"))
    refused(source, "of another size than audeering's.*--emotion-encoder")
    embedded = {name: None for name in golden.weights(RELLM) if name.startswith("w2v2.")}
    spoil(source, **embedded)
    refused(source, "emotion encoder of .* is not in the checkpoint")
    convert(source, tmp_path / "out", emotion_encoder=golden.FOLDER / "audeering", progress=False)
    found = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "out").emotion_encoder.state_dict()
    for name, value in golden.model(RELLM).emotion_encoder.state_dict().items():
        assert torch.equal(found[name], value), name


# --- the whole folder ---


def small_qwen(ranks, folder):
    """A Qwen 1 with random weights and a tiktoken vocabulary, as its publisher lays it out; returns its tensors."""
    given = json.loads((golden.FOLDER / A / "config.json").read_text())["qwen_config"]
    size, draw = len(ranks) + 256, torch.Generator().manual_seed(0)
    below = golden.below(A, "qwen_model.")
    tensors = {name: value.clone() for name, value in below.items()}
    for name in ("transformer.wte.weight", "lm_head.weight"):
        tensors[name] = torch.randn(size, 64, generator=draw)
    folder.mkdir()
    test_tokenizer.write(ranks, folder / "qwen.tiktoken")
    config = {**given, "vocab_size": size, "model_type": "qwen", "architectures": ["QWenLMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors, size


def test_a_qwen_on_its_own_becomes_qwen2(ranks, tmp_path):
    tensors, size = small_qwen(ranks, tmp_path / "qwen")
    torch.save(tensors, tmp_path / "qwen" / "pytorch_model.bin")
    with pytest.raises(RellmError, match=r"Qwen version 1.*re-llm convert"):
        load_llm(tmp_path / "qwen")
    report = convert(tmp_path / "qwen", tmp_path / "out", progress=False)
    assert (report.source, report.target, report.left_out) == ("qwen", "qwen2", {})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert isinstance(model.config, Qwen2Config) and model.config.max_position_embeddings == 512
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"])
    assert torch.equal(model.model.layers[1].mlp.gate_proj.weight, tensors["transformer.h.1.mlp.w2.weight"])
    ids = tokenizer("I'm glad <|im_end|>")["input_ids"]
    assert ids == test_tokenizer.by_ranks("I'm glad <|im_end|>", ranks)
    assert model.generation_config.eos_token_id[0] == len(ranks) + 2 < size


def test_processor_and_generation_come_with_the_checkpoint(ranks, tmp_path):
    """Recording in, answer out, through files alone; and back to the same tensors and vocabulary."""
    source = tmp_path / "source"
    tensors, size = small_qwen(ranks, source)
    given = json.loads((golden.FOLDER / A / "config.json").read_text())
    given["qwen_config"]["vocab_size"] = size
    (source / "config.json").write_text(json.dumps(given))
    rest = {name: value for name, value in golden.weights(A).items() if not name.startswith("qwen_model.")}
    save_file({**rest, **{f"qwen_model.{k}": v for k, v in tensors.items()}}, source / "model.safetensors")
    convert(source, tmp_path / "out", progress=False)
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "out")
    processor = ReLlmProcessor.from_pretrained(tmp_path / "out")
    assert model.config.speech_token_id == processor.speech_token_id == len(ranks) + 208
    assert model.generation_config.suppress_tokens == [len(ranks) + 208]
    audio = [{"type": "audio", "audio": golden.waves()[0]}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": audio}], tokenize=True, add_generation_prompt=True
    )
    assert model.generate(**inputs, max_new_tokens=3).shape == (1, inputs["input_ids"].shape[1] + 3)
    convert(tmp_path / "out", tmp_path / "back", to="blsp-emo", progress=False)
    assert (tmp_path / "back" / "qwen.tiktoken").read_bytes() == (source / "qwen.tiktoken").read_bytes()
    back, original = load_file(tmp_path / "back" / "model.safetensors"), load_file(source / "model.safetensors")
    assert back.keys() == original.keys() and all(torch.equal(back[name], original[name]) for name in back)


@torch.no_grad()
def test_lora_that_was_trained_further_goes_back_as_the_same_function(tmp_path):
    """q, k and v no longer share their A: the released format gets a higher rank."""
    convert(golden.FOLDER / B, tmp_path / "first", progress=False)
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "first")
    for i, (name, parameter) in enumerate(model.named_parameters()):
        if ".lora_" in name:
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    model.save_pretrained(tmp_path / "trained")
    report = convert(tmp_path / "trained", tmp_path / "released", to="blsp-emo", progress=False)
    assert any("rank is tripled" in note for note in report.notes)
    config = json.loads((tmp_path / "released" / "config.json").read_text())["lora_config"]
    assert (config["r"], config["lora_alpha"]) == (12, 48)
    convert(tmp_path / "released", tmp_path / "again", progress=False)
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "again")
    expected = golden.outputs(B)
    ids, mask, _ = golden.speech_rows(B, expected["adapter_mask"])
    found = [golden.padded_pass(each, ids, mask, expected["adapter_embeds"])[mask.bool()] for each in (model, again)]
    golden.close(found[1], found[0])
    assert (found[0] - expected["speech_logits"][mask.bool()]).abs().max() > 0.1


def test_what_the_released_format_cannot_express_is_refused(world, tmp_path):
    world.model().save_pretrained(tmp_path / "ours")
    refused(tmp_path / "ours", "re-llm already. Allowed: --to blsp-emo")
    refused(tmp_path / "ours", "keeps its llm in .*self_contained=True", to="blsp-emo")
    world.model().save_pretrained(tmp_path / "whole", self_contained=True)
    refused(tmp_path / "whole", "a qwen2 that Qwen version 1 cannot express", to="blsp-emo")


def test_a_repository_of_the_hub_is_fetched_with_its_vocabulary_and_pickles(source, tmp_path, monkeypatch):
    """The hub is not reached: the patterns choose among the files of a folder."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    as_pickles(source, 2)
    for name in ("qwen.tiktoken", "modeling_qwen.py", "optimizer.pt", "training_args.bin"):
        (source / name).write_text("")
    asked = []

    def fetch(name, allow_patterns):
        asked.append(name)
        there = [path.name for path in source.iterdir()]
        for chosen in filter_repo_objects(there, allow_patterns=allow_patterns):
            (tmp_path / "cache").mkdir(exist_ok=True)
            shutil.copy(source / chosen, tmp_path / "cache")
        return tmp_path / "cache"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    (source / "qwen.tiktoken").unlink()
    convert("someone/blsp-emo", tmp_path / "out", progress=False)
    held = {path.name for path in (tmp_path / "cache").iterdir()}
    assert asked == ["someone/blsp-emo"] * 2
    assert {name for name in held if name.endswith(".bin")} == {f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
    assert not held & {"modeling_qwen.py", "optimizer.pt", "training_args.bin"}


def test_the_command(tmp_path):
    done = CliRunner().invoke(app, ["convert", str(golden.FOLDER / A), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["source"], found["target"], found["tensors"]) == ("blsp-emo", "re-llm", 76)
    done = CliRunner().invoke(app, ["convert", str(golden.FOLDER / A), str(tmp_path / "out")])
    assert done.exit_code == 2 and "not empty" in done.stderr
