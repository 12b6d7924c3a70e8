"""Checkpoint folders: what is written is what is read, and broken files say which."""

import json
import shutil

import pytest
import tiny_world
import torch
from safetensors.torch import load_file, save_file

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmConfig, ReLlmForConditionalGeneration, ReLlmProcessor

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


def test_load_trained_resumes_adapter_heads_and_lora(world, batch, tmp_path):
    model, other = world.model(), world.model()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    assert not same(model, other, batch)
    other.load_trained(tmp_path)
    assert same(model, other, batch)


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


# --- continuing from an earlier stage ---


def stage_two(world, tmp_path):
    model = world.model(emotion=False)
    model.save_pretrained(tmp_path / "stage2")
    return model


def test_a_fused_adapter_continues_from_the_earlier_stage(world, tmp_path):
    earlier = stage_two(world, tmp_path)
    fused = world.model(start=tmp_path / "stage2")
    batch = world.processor()(text=TEXTS, audio=WAVES)
    encoded = fused.encode_audio(**{k: v for k, v in batch.items() if k not in ("input_ids", "attention_mask")})
    silent = type(encoded)(encoded.speech_states, encoded.speech_lengths, torch.zeros_like(encoded.emotion_states))
    plain = type(encoded)(encoded.speech_states, encoded.speech_lengths)
    expected = earlier.encode_speech(plain)
    torch.testing.assert_close(fused.encode_speech(silent).embeddings, expected.embeddings)
    assert torch.equal(fused.emotion_head.weight, earlier.emotion_head.weight)
    fresh = world.model()
    report = fresh.continue_from(tmp_path / "stage2", adapter="fresh")
    assert {name.split(".")[0] for name in report.left_out} == {"adapter"} and "fresh" in "".join(report.summary())
    assert (fresh.encode_speech(silent).embeddings - expected.embeddings).abs().max() > 1e-2
    assert torch.equal(fresh.dimension_head.weight, earlier.dimension_head.weight)


def test_the_blank_of_the_ctc_continues_with_its_adapter(world, tmp_path):
    model = world.model(emotion=False)
    model.add_ctc_blank()
    model.ctc_blank.data.normal_()
    model.save_pretrained(tmp_path / "words")
    later = world.model(emotion=False, start=tmp_path / "words")
    assert torch.equal(later.ctc_blank, model.ctc_blank) and later.config.ctc_blank
    fresh = world.model(emotion=False)
    assert "ctc_blank" in fresh.continue_from(tmp_path / "words", adapter="fresh").left_out
    assert fresh.ctc_blank is None


def test_lora_continues_from_the_earlier_stage(world, tmp_path):
    earlier = stage_two(world, tmp_path)
    torch.manual_seed(77)
    later = ReLlmForConditionalGeneration.from_components(
        world.llm, world.whisper, world.emotion, adapter=tiny_world.ADAPTER, lora={"r": 4}
    )
    assert later.continue_from(tmp_path / "stage2").taken["lora"] == 24
    own = {k: v for k, v in earlier.state_dict().items() if ".lora_" in k}
    assert own and all(torch.equal(later.state_dict()[key], value) for key, value in own.items())
    with pytest.raises(RellmError, match=r"lora_A.weight has shape \[4, 32\], the model needs \[8, 32\]"):
        world.model(lora={"r": 8}, start=tmp_path / "stage2")


def test_other_emotions_start_with_a_fresh_head(world, tmp_path):
    earlier = stage_two(world, tmp_path)
    later = world.model(emotions=["calm", "angry"], start=tmp_path / "stage2")
    assert later.emotion_head.weight.shape[0] == 2
    assert "starts fresh" in later.taken_over.left_out["emotion_head.weight"]
    assert torch.equal(later.dimension_head.weight, earlier.dimension_head.weight)


def test_an_adapter_of_another_kind_is_refused(world, tmp_path):
    stage_two(world, tmp_path)
    with pytest.raises(RellmError, match="cannot start an adapter"):
        world.model(adapter={"bottleneck": 32}, start=tmp_path / "stage2")


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
    with pytest.raises(RellmError, match="adapter: unknown key 'kernel'"):
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


def test_emotions_in_another_order_keep_their_rows(world, tmp_path):
    first = world.model(emotions=["calm", "angry", "sad"])
    first.save_pretrained(tmp_path / "first")
    then = world.model(emotions=["sad", "calm", "angry"], start=tmp_path / "first")
    assert torch.equal(then.emotion_head.weight, first.emotion_head.weight[[2, 0, 1]])
