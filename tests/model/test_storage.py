"""Checkpoint folders: what is written is what is read, and broken files say which."""

import json
import shutil

import pytest
import ship_small
import tiny_world
import torch
from safetensors.torch import load_file, save_file

from re_llm.core.assets import component_hash
from re_llm.core.errors import RellmError
from re_llm.model import ReLlmConfig, ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.model.components import checkpoint_config, own_tensors
from re_llm.model.weights import in_int8

WAVES = [tiny_world.wave(0.4), tiny_world.wave(1.3, 1)]
TEXTS = ["say <|speech|> now", "<|speech|>"]


@pytest.fixture(scope="module")
def batch(world):
    return world.processor()(text=TEXTS, audio=WAVES)


@torch.no_grad()
def same(a, b, batch) -> bool:
    first, second = a(**batch), b(**batch)
    return (
        torch.equal(first.logits, second.logits)
        and torch.equal(first.emotion_logits, second.emotion_logits)
        and torch.equal(first.dimensions, second.dimensions)
    )


@pytest.mark.parametrize("self_contained", [True, False])
@pytest.mark.parametrize("options", [{}, {"lora": None, "speech_window": "trimmed"}], ids=["lora", "trimmed"])
def test_saved_and_read_again(world, batch, tmp_path, self_contained, options):
    model = world.model(**options)
    model.add_ctc_blank()
    model.ctc_blank.data.normal_()
    folder = tmp_path / "deep" / "checkpoint"
    model.save_pretrained(folder, self_contained=self_contained)
    again = ReLlmForConditionalGeneration.from_pretrained(folder)
    inputs = batch if not options else world.processor(speech_window="trimmed")(text=TEXTS, audio=WAVES)
    assert same(model, again, inputs) and torch.equal(model.ctc_blank, again.ctc_blank)
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    stored = set(load_file(folder / "model.safetensors"))
    parts = {key.split(".")[0] for key in stored}
    named = {"language_model", "speech_encoder", "emotion_encoder"}
    assert parts == {"adapter", "emotion_head", "dimension_head", "ctc_blank", *(named if self_contained else ())}
    assert not any("lora" in key or "base_layer" in key for key in stored)
    components = json.loads((folder / "config.json").read_text())["components"]
    assert all(value is None if self_contained else value.startswith("../") for value in components.values())
    assert (folder / "adapter_model.safetensors").is_file() == (model.config.lora is not None)
    assert not any(str(tmp_path.parent) in path.read_text() for path in folder.glob("*.json"))


def test_a_checkpoint_moves_with_its_components(world, batch, tmp_path):
    shutil.copytree(world.llm.parent, tmp_path / "a" / "components")
    here = tmp_path / "a" / "components"
    world.model().save_pretrained(tmp_path / "elsewhere")
    model = ReLlmForConditionalGeneration.from_components(
        here / "llm", here / "whisper", here / "emotion", adapter=tiny_world.ADAPTER, lora={"r": 4}
    )
    model.save_pretrained(tmp_path / "a" / "checkpoint")
    shutil.move(tmp_path / "a", tmp_path / "b")
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "b" / "checkpoint")
    assert same(model, again, batch)
    again.save_pretrained(tmp_path / "b" / "deeper" / "copy")
    config = json.loads((tmp_path / "b" / "deeper" / "copy" / "config.json").read_text())
    assert config["components"]["llm"] == "../../components/llm"
    assert same(model, ReLlmForConditionalGeneration.from_pretrained(tmp_path / "b" / "deeper" / "copy"), batch)


def test_a_fetched_part_keeps_its_name(world, batch, tmp_path, monkeypatch):
    """So a checkpoint finds it on any machine, wherever its cache is."""
    cache = tmp_path / "cache" / "parts"
    shutil.copytree(world.llm, cache / "llm-base")
    shutil.copytree(world.whisper, cache / "whisper")
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path / "cache"))
    model = ReLlmForConditionalGeneration.from_components(
        "small:llm-base", "small:whisper", world.emotion, adapter=tiny_world.ADAPTER
    )
    model.save_pretrained(tmp_path / "checkpoint")
    named = json.loads((tmp_path / "checkpoint" / "config.json").read_text())["components"]
    assert (named["llm"], named["speech_encoder"]) == ("small:llm-base", "small:whisper")
    (tmp_path / "cache").rename(tmp_path / "moved")
    with pytest.raises(RellmError, match=r"small:llm-base .* is not here"):
        ReLlmForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path / "moved"))
    assert same(model, ReLlmForConditionalGeneration.from_pretrained(tmp_path / "checkpoint"), batch)


def test_an_untied_output_layer_is_kept(world, batch, tmp_path):
    tiny_world.save_llm(tmp_path / "llm", tied=False, seed=9)
    model = ReLlmForConditionalGeneration.from_components(
        tmp_path / "llm", world.whisper, world.emotion, adapter=tiny_world.ADAPTER
    )
    model.save_pretrained(tmp_path / "checkpoint", self_contained=True)
    assert "language_model.lm_head.weight" in load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert same(model, ReLlmForConditionalGeneration.from_pretrained(tmp_path / "checkpoint"), batch)


def test_a_component_that_was_trained_is_stored(world, batch, tmp_path):
    model = world.model()
    model.set_trainable(["adapter", "speech_encoder"])
    model.speech_encoder.whisper.conv1.weight.data += 0.01
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["components"]["speech_encoder"] is None
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path)
    assert same(model, again, batch)


def test_shards_and_the_trainers_state_dict(world, batch, tmp_path):
    model = world.model()
    model.save_pretrained(tmp_path, self_contained=True, max_shard_size="100KB", state_dict=model.state_dict())
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same(model, ReLlmForConditionalGeneration.from_pretrained(tmp_path), batch)
    model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]


def test_dtypes(world, batch, tmp_path):
    world.model().save_pretrained(tmp_path)
    half = ReLlmForConditionalGeneration.from_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    mixed = ReLlmForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16, trainable_dtype=torch.float32)
    kinds = {mixed._part_of(name): p.dtype for name, p in mixed.named_parameters()}
    assert kinds["lora"] == kinds["adapter"] == kinds["heads"] == torch.float32
    assert kinds["llm"] == kinds["emotion_encoder"] == torch.bfloat16
    rotary = half.language_model.model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32  # rounded, positions would drift
    with torch.no_grad():
        exact = ReLlmForConditionalGeneration.from_pretrained(tmp_path)(**batch).logits
        for model in (half, mixed):
            assert (model(**batch).logits.float() - exact).abs().mean() < 0.1
    with pytest.raises(RellmError, match="dtype is 'int8'"):
        ReLlmForConditionalGeneration.from_pretrained(tmp_path, dtype="int8")


@pytest.fixture
def sharing(world, tmp_path):
    """Two checkpoints that differ in the adapter's first convolution, heads and LoRA; the second names the first."""
    first, second = world.model(), world.model()
    second.adapter.load_state_dict(first.adapter.state_dict())
    second.set_trainable(["adapter_input", "heads", "lora"])
    for parameter in second.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    weights = load_file(tmp_path / "second" / "model.safetensors")
    common = load_file(tmp_path / "first" / "model.safetensors")
    own = {k: v for k, v in weights.items() if not (k.startswith("adapter.") and torch.equal(v, common[k]))}
    assert {k for k in own if k.startswith("adapter.")} == {"adapter.convs.0.weight", "adapter.convs.0.bias"}
    save_file(own, tmp_path / "second" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    config["components"]["adapter"] = "../first"
    (tmp_path / "second" / "config.json").write_text(json.dumps(config))
    return second


def test_what_a_checkpoint_lacks_of_its_adapter_is_that_of_another(sharing, world, batch, tmp_path):
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "second")
    assert same(sharing, again, batch)
    again.save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "first")
    assert same(sharing, ReLlmForConditionalGeneration.from_pretrained(tmp_path / "whole"), batch)
    with pytest.raises(RellmError, match="first"):
        ReLlmForConditionalGeneration.from_pretrained(tmp_path / "second")
    started = world.model()
    started.continue_from(tmp_path / "whole")
    assert same(sharing, started, batch)


def test_what_ships_keeps_apart_what_it_has_of_its_own(sharing, world, tmp_path):
    first = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "first")
    for model, name in ((first, "first"), (sharing, "second")):
        model.config.words_unsure_below = 0.7
        model.save_pretrained(tmp_path / name)
        world.processor().save_pretrained(tmp_path / name)
        (tmp_path / name / "report.json").write_text("{}")
    ship_small.put(tmp_path / "first", world.emotion, tmp_path / "open" / "re-llm", None)
    shipped = tmp_path / "nc" / "re-llm"
    ship_small.put(tmp_path / "second", world.emotion, shipped, tmp_path / "open" / "re-llm")
    held = load_file(shipped / "model.safetensors")
    assert {k for k in held if k.startswith("adapter.")} == {"adapter.convs.0.weight", "adapter.convs.0.bias"}
    whole = own_tensors(shipped, checkpoint_config(shipped))
    expected = {k: v.half() for k, v in load_file(tmp_path / "second" / "model.safetensors").items()}
    assert whole.keys() == expected.keys() and all(torch.equal(whole[k].read(), expected[k]) for k in expected)
    assert not (shipped / "tokenizer.json").exists()
    other = world.model()
    for parameter in other.adapter.parameters():
        parameter.data.normal_()
    other.config.words_unsure_below = 0.7
    other.save_pretrained(tmp_path / "second")
    with pytest.raises(SystemExit, match="nothing in common"):
        ship_small.put(tmp_path / "second", world.emotion, shipped, tmp_path / "open" / "re-llm")


@pytest.fixture
def in_bytes(world, tmp_path, monkeypatch):
    """A shipped model whose matrices are int8, however small they are."""
    monkeypatch.setattr("re_llm.model.weights.LARGE", 1)
    model = world.model()
    for parameter in model.adapter.parameters():
        parameter.data.normal_()
    model.config.words_unsure_below = 0.7
    model.save_pretrained(tmp_path / "trained")
    world.processor().save_pretrained(tmp_path / "trained")
    (tmp_path / "trained" / "report.json").write_text("{}")
    target = tmp_path / "open" / "re-llm"
    ship_small.put(tmp_path / "trained", world.emotion, target, None)
    config = json.loads((target / "config.json").read_text())
    before = json.loads((tmp_path / "trained" / "config.json").read_text())["components"]
    named = {part: str((tmp_path / "trained" / before[part]).resolve()) for part in ("llm", "speech_encoder")}
    (target / "config.json").write_text(json.dumps(config | {"components": config["components"] | named}))
    return target


def test_matrices_in_int8_are_off_by_half_a_step_of_their_row(in_bytes, tmp_path):
    held, before = load_file(in_bytes / "model.safetensors"), load_file(tmp_path / "trained" / "model.safetensors")
    read = own_tensors(in_bytes, checkpoint_config(in_bytes))
    assert read.keys() == before.keys()
    assert {k for k, v in held.items() if v.dtype == torch.int8} == {k for k, v in before.items() if v.ndim > 1}
    for name, tensor in before.items():
        stored = read[name].read()
        assert (read[name].shape, read[name].dtype) == (tensor.shape, torch.float16) == (stored.shape, stored.dtype)
        steps = held[f"{name}.steps"].view(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim > 1 else torch.zeros(1)
        rounded = tensor.half().float().abs().max() * 2**-10  # float16, twice
        assert ((stored.float() - tensor).abs() <= steps / 2 + rounded).all()


def test_int8_of_zeros_and_of_one_large_number():
    rows = torch.zeros(3, 40_000)
    rows[1, 7], rows[2] = -60_000.0, torch.linspace(-1, 1, 40_000)
    encoded = in_int8({"matrix": rows, "bias": rows[:, 0], "count": torch.ones(3, 40_000, dtype=torch.int64)})
    assert encoded.keys() == {"matrix", "matrix.steps", "bias", "count"} and encoded["count"].dtype == torch.int64
    assert not encoded["matrix"][0].any() and encoded["matrix"][1, 7] == -127


def test_a_model_in_int8_answers_and_is_saved_whole(in_bytes, batch, tmp_path):
    shipped = ReLlmForConditionalGeneration.from_pretrained(in_bytes, dtype=torch.float32)
    shipped.save_pretrained(tmp_path / "again")
    assert same(shipped, ReLlmForConditionalGeneration.from_pretrained(tmp_path / "again", dtype=torch.float32), batch)


@pytest.mark.parametrize("broken", [lambda steps: steps[:-1], torch.Tensor.double, lambda steps: steps * torch.nan])
def test_steps_that_do_not_fit_are_refused(in_bytes, broken):
    weights = load_file(in_bytes / "model.safetensors")
    weights["adapter.up.weight.steps"] = broken(weights["adapter.up.weight.steps"]).contiguous()
    save_file(weights, in_bytes / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RellmError, match=r"adapter\.up\.weight"):
        ReLlmForConditionalGeneration.from_pretrained(in_bytes)


def test_steps_beside_a_vector_are_refused(in_bytes):
    weights = load_file(in_bytes / "model.safetensors")
    weights["adapter.norm.bias.steps"] = torch.ones(len(weights["adapter.norm.bias"]))
    weights["adapter.norm.bias"] = weights["adapter.norm.bias"].to(torch.int8)
    save_file(weights, in_bytes / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RellmError, match=r"adapter\.norm\.bias\.steps"):
        ReLlmForConditionalGeneration.from_pretrained(in_bytes)


def test_a_training_starts_from_a_checkpoint_that_shares_its_adapter(sharing, world, batch, tmp_path):
    started = world.model()
    started.continue_from(tmp_path / "second")
    assert same(sharing, started, batch)


def test_a_checkpoint_that_shares_its_adapter_changes_with_it(sharing, tmp_path):
    before = component_hash(str(tmp_path / "second"))
    weights = load_file(tmp_path / "first" / "model.safetensors")
    weights["adapter.norm.bias"] += 1
    save_file(weights, tmp_path / "first" / "model.safetensors", metadata={"format": "pt"})
    assert component_hash(str(tmp_path / "second")) != before


def test_another_adapter_is_refused(sharing, world, tmp_path):
    world.model(adapter={**tiny_world.ADAPTER, "bottleneck": 4}).save_pretrained(tmp_path / "first")
    with pytest.raises(RellmError, match="adapter"):
        ReLlmForConditionalGeneration.from_pretrained(tmp_path / "second")


def test_load_trained_resumes_adapter_heads_and_lora(world, batch, tmp_path):
    model, other = world.model(), world.model()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    assert not same(model, other, batch)
    other.load_trained(tmp_path)
    assert same(model, other, batch)


def test_the_same_checkpoint_has_the_same_bytes(world, tmp_path):
    """PEFT keeps the modules in a set, whose order changes with the hash seed of the process."""
    model = world.model()
    model.language_model.peft_config["default"].target_modules = {"v_proj", "q_proj", "up_proj", "k_proj"}
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["target_modules"] == ["k_proj", "q_proj", "up_proj", "v_proj"]
    assert isinstance(model.language_model.peft_config["default"].target_modules, set)


def test_a_crash_while_writing_leaves_the_former_checkpoint(world, batch, tmp_path, monkeypatch):
    from re_llm.model import storage

    model = world.model()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = world.model()
    other.emotion_head.weight.data += 1.0

    def out_of_disk(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(storage, "save_file", out_of_disk)
    with pytest.raises(OSError, match="no space"):
        other.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_pushed_stands_alone(world, batch, tmp_path, monkeypatch):
    """The hub is not reached: what would be uploaded is copied, and read as transformers and PEFT read a repository."""
    import huggingface_hub
    from peft import PeftModel
    from transformers import AutoModel, AutoModelForCausalLM

    class Hub:
        def __init__(self, token=None): ...

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": f"someone/{repo_id}"})

        def upload_folder(self, repo_id, folder_path, **_):
            shutil.copytree(folder_path, tmp_path / repo_id)
            return type("Commit", (), {"commit_url": f"https://hub/{repo_id}"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    model = world.model()
    assert model.push_to_hub("heard") == "https://hub/someone/heard"
    repository = tmp_path / "someone" / "heard"
    assert not (repository / "adapter_config.json").exists()
    assert json.loads((repository / "config.json").read_text())["components"]["llm"] is None
    assert same(model, AutoModel.from_pretrained(repository), batch)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.llm), repository, subfolder="lora")
    name = "model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert torch.equal(stock.base_model.model.get_parameter(name), model.language_model.get_parameter(name))


# --- what is wrong, and where ---


@pytest.fixture()
def checkpoint(world, tmp_path):
    world.model().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def read(folder):
    return ReLlmForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
def test_a_missing_or_truncated_file_is_named(checkpoint, name):
    path = checkpoint / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RellmError, match=f"{name} is not a whole safetensors file"):
        read(checkpoint)
    path.unlink()
    with pytest.raises(RellmError, match=name):
        read(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
def test_a_missing_or_misshapen_tensor_is_named(checkpoint, name):
    weights = load_file(checkpoint / name)
    key = sorted(weights)[0]
    save_file({**weights, key: torch.zeros(7, 7)}, checkpoint / name)
    with pytest.raises(RellmError, match=rf"{name}: {key} has shape \[7, 7\]"):
        read(checkpoint)
    save_file({k: v for k, v in weights.items() if k != key}, checkpoint / name)
    with pytest.raises(RellmError, match=f"{name} lacks the tensor {key}"):
        read(checkpoint)
    save_file({**weights, "stranger": torch.zeros(1)}, checkpoint / name)
    with pytest.raises(RellmError, match="holds the tensor stranger"):
        read(checkpoint)


@pytest.mark.parametrize("component", ["llm", "whisper", "emotion"])
def test_a_broken_component_is_named(world, tmp_path, component):
    shutil.copytree(world.llm.parent, tmp_path / "components")
    folders = {name: tmp_path / "components" / name for name in ("llm", "whisper", "emotion")}

    def build():
        return ReLlmForConditionalGeneration.from_components(*folders.values(), adapter=tiny_world.ADAPTER)

    build()
    path = folders[component] / "model.safetensors"
    weights = load_file(path)
    last = [key for key in sorted(weights) if "decoder" not in key and "masked" not in key][-1]
    save_file({k: v for k, v in weights.items() if k != last}, path, metadata={"format": "pt"})
    with pytest.raises(RellmError, match=f"{component} lacks the tensor"):
        build()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RellmError, match=f"{component}"):
        build()
    path.unlink()
    with pytest.raises(RellmError, match=f"{component}"):
        build()


def test_a_pickled_emotion_encoder_needs_permission(world, tmp_path):
    shutil.copytree(world.emotion, tmp_path / "emotion")
    weights = load_file(tmp_path / "emotion" / "model.safetensors")
    (tmp_path / "emotion" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "emotion" / "pytorch_model.bin")
    parts = (world.llm, world.whisper, tmp_path / "emotion")
    with pytest.raises(RellmError, match="allow_pickle=True"):
        ReLlmForConditionalGeneration.from_components(*parts, adapter=tiny_world.ADAPTER)
    ReLlmForConditionalGeneration.from_components(*parts, adapter=tiny_world.ADAPTER, allow_pickle=True)


def test_an_index_that_points_outside_is_refused(world, tmp_path):
    shutil.copytree(world.emotion, tmp_path / "emotion")
    (tmp_path / "emotion" / "model.safetensors").unlink()
    index = {"weight_map": {"wav2vec2.x": "../../secret.safetensors"}}
    (tmp_path / "emotion" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RellmError, match="outside of its folder"):
        ReLlmForConditionalGeneration.from_components(world.llm, world.whisper, tmp_path / "emotion")


def test_names_that_are_no_folders(world, tmp_path):
    with pytest.raises(RellmError, match="there is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(RellmError, match=r"holds no config\.json"):
        read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(RellmError, match=r"config\.json cannot be used"):
        read(tmp_path)
    with pytest.raises(RellmError, match="is a qwen2 model"):
        read(world.llm)
    with pytest.raises(RellmError, match="holds a qwen2 model"):
        ReLlmForConditionalGeneration.from_components(world.llm, world.llm)


def test_an_option_that_would_be_ignored_is_refused(checkpoint):
    with pytest.raises(RellmError, match="takes no option 'quantization_config'"):
        ReLlmForConditionalGeneration.from_pretrained(checkpoint, quantization_config={})


def test_options_that_contradict_each_other(world):
    with pytest.raises(RellmError, match="fusion"):
        world.model(fusion="none")
    with pytest.raises(RellmError, match="fusion"):
        world.model(emotion=False, fusion="pooled")
    with pytest.raises(RellmError, match=r"unknown key 'adapter\.kernel'"):
        world.model(adapter={"kernel": 5})
    with pytest.raises(RellmError, match=r"lora: scope is 'audio'. Allowed: 'speech', 'text' or 'global'"):
        world.model(lora={"scope": "audio"})
    with pytest.raises(RellmError, match="none of them twice"):
        world.model(emotions=["sad", "sad"])
    with pytest.raises(RellmError, match="names no model_type"):
        ReLlmConfig(text_config={"hidden_size": 4})


# --- transformers' own ways in ---


@pytest.mark.parametrize("self_contained", [True, False])
def test_auto_classes(world, batch, tmp_path, self_contained):
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

    model = world.model()
    model.save_pretrained(tmp_path, self_contained=self_contained)
    world.processor().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ReLlmConfig)
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
        assert same(model, auto.from_pretrained(tmp_path), batch)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, ReLlmProcessor)
    again = processor(text=TEXTS, audio=WAVES)
    assert all(torch.equal(again[key], batch[key]) for key in batch)
    assert AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("self_contained", [True, False])
def test_the_attention_that_was_asked_for_reaches_every_part(world, batch, tmp_path, self_contained):
    model = world.model()
    model.save_pretrained(tmp_path, self_contained=self_contained)
    plain = ReLlmForConditionalGeneration.from_pretrained(tmp_path)
    eager = ReLlmForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    for each, kind in ((plain, "sdpa"), (eager, "eager")):
        backbone = each.emotion_encoder.backbone
        found = (each.language_model, each.speech_encoder.whisper, backbone)
        assert {part.config._attn_implementation for part in found} == {kind}
    torch.testing.assert_close(eager(**batch).logits, plain(**batch).logits, atol=1e-4, rtol=1e-3)
    built = world.model(attn_implementation="eager")
    assert built.language_model.config._attn_implementation == "eager"


def test_a_pipeline_of_text_refuses_recordings_and_names_the_task_that_works(world, tmp_path):
    from jinja2 import TemplateError
    from transformers import pipeline

    world.model().save_pretrained(tmp_path)
    world.processor().save_pretrained(tmp_path)
    said = [{"role": "user", "content": [{"type": "audio", "audio": WAVES[0]}]}]
    text = pipeline("text-generation", model=str(tmp_path))
    with pytest.raises(TemplateError, match=r'cannot read audio: use pipeline\("any-to-any"\)'):
        text(said, max_new_tokens=3)
    words = [{"role": "user", "content": "hello"}]
    assert text(words, max_new_tokens=3)[0]["generated_text"][-1]["role"] == "assistant"
    processor = ReLlmProcessor.from_pretrained(tmp_path)
    inputs = processor.apply_chat_template(said, tokenize=True, add_generation_prompt=True)
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path)
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    heard = pipeline("any-to-any", model=str(tmp_path))(
        text=said, max_new_tokens=3, generate_kwargs={"do_sample": False}
    )
    answer = heard[0]["generated_text"][-1]["content"]
    assert answer == processor.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name",
    [
        "adapter.convs.0.weight",
        "speech_encoder.whisper.conv1.weight",
        "emotion_encoder.classifier.dense.bias",
        "language_model.model.norm.weight",
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(world, tmp_path, name, value):
    world.model().save_pretrained(tmp_path, self_contained=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights[name].view(-1)[-1] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RellmError, match=rf"the tensor {name.split('.', 1)[1]} holds NaN or infinite|{name} holds NaN"):
        read(tmp_path)


@pytest.mark.parametrize("component", ["llm", "whisper", "emotion"])
def test_components_that_are_not_finite_are_refused_by_name(world, tmp_path, component):
    shutil.copytree(world.llm.parent, tmp_path / "parts")
    path = tmp_path / "parts" / component / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in sorted(weights) if "decoder" not in key)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    folders = [tmp_path / "parts" / each for each in ("llm", "whisper", "emotion")]
    with pytest.raises(RellmError, match=rf"{component}.* the tensor {name} holds NaN or infinite values"):
        ReLlmForConditionalGeneration.from_components(*folders, adapter=tiny_world.ADAPTER)


def test_lora_that_is_not_finite_is_refused_by_name(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name][0, 0] = float("inf")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RellmError, match=rf"adapter_model\.safetensors: the tensor {name} holds NaN"):
        read(checkpoint)


# --- dtypes of frozen and of trained parts ---


def as_bfloat16(source, target):
    """A component stored in bfloat16, as most chat LLMs are."""
    shutil.copytree(source, target)
    weights = {name: value.bfloat16() for name, value in load_file(target / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return target


def memory(model):
    """Bytes of the parameters of each part."""
    sizes = {}
    for name, parameter in model.named_parameters():
        part = model._part_of(name)
        sizes[part] = sizes.get(part, 0) + parameter.numel() * parameter.element_size()
    return sizes


def test_frozen_parts_stay_as_they_are_stored_and_trained_ones_are_float32(world, tmp_path):
    parts = (as_bfloat16(world.llm, tmp_path / "llm"), as_bfloat16(world.whisper, tmp_path / "whisper"), world.emotion)
    options = {"adapter": tiny_world.ADAPTER, "lora": {"r": 4}}
    auto = ReLlmForConditionalGeneration.from_components(*parts, **options)
    full = ReLlmForConditionalGeneration.from_components(*parts, **options, dtype=torch.float32)
    half = ReLlmForConditionalGeneration.from_components(*parts, **options, dtype=torch.bfloat16)
    sizes = {kind: memory(model) for kind, model in (("auto", auto), ("full", full), ("half", half))}
    assert sizes["auto"]["llm"] * 2 == sizes["full"]["llm"] and sizes["half"]["llm"] == sizes["auto"]["llm"]
    assert sizes["auto"]["speech_encoder"] * 2 == sizes["full"]["speech_encoder"]
    assert sizes["auto"]["emotion_encoder"] == sizes["full"]["emotion_encoder"] == 2 * sizes["half"]["emotion_encoder"]
    for part in ("adapter", "heads", "lora"):
        assert len({size[part] for size in sizes.values()}) == 1
    assert {p.dtype for p in auto.parameters() if p.requires_grad} == {torch.float32}
    auto.set_trainable(["adapter", "speech_encoder"], dtype=torch.float32)
    assert {p.dtype for p in auto.speech_encoder.parameters()} == {torch.float32}
    auto.save_pretrained(tmp_path / "saved")
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert memory(again) == memory(auto)  # the config says the dtype of each part


def test_float16_is_widened_before_gradients_pass_through_it(world, tmp_path):
    shutil.copytree(world.llm, tmp_path / "llm")
    weights = {name: value.half() for name, value in load_file(tmp_path / "llm" / "model.safetensors").items()}
    save_file(weights, tmp_path / "llm" / "model.safetensors", metadata={"format": "pt"})
    model = ReLlmForConditionalGeneration.from_components(tmp_path / "llm", world.whisper, adapter=tiny_world.ADAPTER)
    assert {p.dtype for p in model.language_model.parameters()} == {torch.float32}


def test_training_steps_over_frozen_bfloat16_agree_with_those_over_float32(world, batch, tmp_path):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = world.model(dtype=dtype, lora_strength=0.1)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        labels = batch["input_ids"].masked_fill(batch["input_ids"] == model.config.speech_token_id, -100)
        found = []
        for _ in range(4):
            loss = model(**batch, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        losses[dtype] = torch.tensor(found)
    assert losses[torch.float32][-1] < losses[torch.float32][0]
    torch.testing.assert_close(losses[torch.bfloat16], losses[torch.float32], rtol=0.02, atol=0.02)


# --- transformers' own Trainer ---


def test_stock_trainer_resumes_adapter_heads_and_lora(world, batch, tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{name: value[i] for name, value in batch.items()} for i in (0, 1)]
    token = world.processor().speech_token_id
    for row in rows:
        row["labels"] = row["input_ids"].masked_fill(row["input_ids"] == token, -100)

    def run(steps, resume=None):
        arguments = TrainingArguments(
            str(tmp_path / "run"), max_steps=steps, save_steps=2, per_device_train_batch_size=1, learning_rate=1e-2,
            lr_scheduler_type="constant", use_cpu=True, report_to=[], disable_tqdm=True, gradient_accumulation_steps=2,
        )  # fmt: skip
        trainer = Trainer(world.model(lora={"r": 4, "dropout": 0.0}), arguments, train_dataset=rows * 4)
        assert trainer.model_accepts_loss_kwargs is False  # the loss is a mean over the batch
        trainer.train(resume_from_checkpoint=resume)
        return {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}

    whole = run(4)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed = run(4, str(tmp_path / "run" / "checkpoint-2"))
    start = dict(world.model(lora={"r": 4, "dropout": 0.0}).named_parameters())
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    assert any(".lora_B." in name and not torch.equal(start[name], value) for name, value in whole.items())
    # What Trainer wrote is a checkpoint like any other.
    assert same_weights(read(tmp_path / "run" / "checkpoint-4"), whole)


def same_weights(model, weights):
    own = dict(model.named_parameters())
    return all(torch.equal(own[name], value) for name, value in weights.items())
