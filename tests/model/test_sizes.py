"""Parameter counts of the model of the paper, part by part, against counts by hand."""

import pytest

from re_llm.apps import doctor
from re_llm.model.sizes import paper_sizes
from re_llm.recipe.files import load_recipe


@pytest.fixture(scope="module")
def sizes():
    return paper_sizes()


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + bias * outputs


def norm(width: int) -> int:
    return 2 * width


def test_whisper_large_v2_encoder(sizes):
    attention = 3 * linear(1280, 1280) + linear(1280, 1280, bias=False)  # k has no bias
    layer = attention + linear(1280, 5120) + linear(5120, 1280) + 2 * norm(1280)
    convolutions = linear(80 * 3, 1280) + linear(1280 * 3, 1280)
    expected = convolutions + 1500 * 1280 + 32 * layer + norm(1280)
    assert sizes["speech_encoder"] == expected == 636_784_640


def test_audeering_wav2vec2(sizes):
    kernels = [10, 3, 3, 3, 3, 2, 2]
    front = sum(linear((512 if i else 1) * kernel, 512) + norm(512) for i, kernel in enumerate(kernels))
    front += norm(512) + linear(512, 1024) + 1024  # projection, and the mask vector of SpecAugment
    positions = 128 + 1024 * 64 * 128 + 1024  # weight norm over the kernel's 128 taps, 16 groups of 64 channels
    layer = 4 * linear(1024, 1024) + linear(1024, 4096) + linear(4096, 1024) + 2 * norm(1024)
    head = linear(1024, 1024) + linear(1024, 3)
    expected = front + positions + 12 * layer + norm(1024) + head
    assert sizes["emotion_encoder"] == expected == 165_336_707


def test_fused_adapter_and_heads(sizes):
    width = 1280 + 1024
    convolutions = 2 * linear(5 * width, 2 * width) + linear(5 * width, 2 * 4096)
    bottleneck = 2 * 4096 * 512 + norm(4096)
    assert sizes["adapter"] == convolutions + bottleneck == 204_760_064
    assert sizes["heads"] == 4096 * (5 + 3)


def test_qwen_7b(sizes):
    attention = 3 * linear(4096, 4096) + linear(4096, 4096, bias=False)
    layer = attention + 3 * 4096 * 11008 + 2 * 4096
    expected = 2 * 151_936 * 4096 + 32 * layer + 4096
    assert sizes["llm"] == expected == 7_721_324_544


def test_lora(sizes):
    attention = 4 * 16 * (4096 + 4096)
    up_and_gate = 2 * 16 * (4096 + 11008)
    assert sizes["lora"] == 32 * (attention + up_and_gate) == 32_243_712


def test_the_doctor_shows_them(sizes, capsys):
    machine = doctor.examine_machine()
    needs = doctor.examine_recipe(load_recipe("re_llm"), machine)
    # The recipe's LoRA covers the down projection as well: 32 layers of 16 x (11,008 + 4,096).
    lora = 32_243_712 + 32 * 16 * (11_008 + 4_096)
    assert needs.trained == {"adapter": 204_760_064, "heads": 32_768, "lora": lora}
    for part in needs.parts:  # the doctor's table of known models agrees with the models themselves
        assert doctor.KNOWN[part.name].millions == round(sizes[part.role] / 1e6)
    doctor.show(machine, needs)
    shown = capsys.readouterr().out
    assert "204.8 M" in shown and "--quantize 8bit" in shown
    titles = next(line.split() for line in shown.splitlines() if "parameters" in line and "state" in line)
    assert titles == ["part", "parameters", "bf16", "8-bit", "4-bit", "state"]
    llm = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["llm"])
    assert llm[1:9] == ["7,721.0", "M", "15", "GB", "9", "GB", "5.9", "GB"]


def test_the_doctor_counts_what_is_not_quantised(sizes):
    """Embeddings and output layer stay in 16 bit; what the layers of the LLM take is 1 byte, or half of one."""
    outside = 2 * 151_936 * 4096
    inside = sizes["llm"] - outside
    for name, each in (("8-bit", 1.0), ("4-bit", 0.516)):  # NF4 with doubly quantised scales: 4.127 bits
        expected = 2 * outside + each * inside
        assert doctor.BYTES[name] * sizes["llm"] == pytest.approx(expected, rel=0.02)


def test_the_doctor_knows_recipes_without_the_emotion_encoder():
    machine = doctor.examine_machine()
    assert doctor.examine_recipe(load_recipe("blsp"), machine).trained.keys() == {"adapter", "heads"}
    assert doctor.examine_recipe(load_recipe("mini"), machine).trained == {}
