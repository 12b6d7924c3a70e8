"""How fast a released checkpoint is converted, beside reading and writing the same bytes without looking at them.

The checkpoint has the released layout of RE-LLM (Qwen version 1, Whisper, wav2vec2, LoRA), random weights in bfloat16
and some 300 MB. What a user would write instead, `torch.load` of every file and `save_file` of what it holds, renames
nothing, checks nothing and cuts nothing. Every run is a process of its own; seconds and peak memory are those of the
work without the imports. Seconds are those of the processor, so that other work on the machine and its disk does not
count. Pages of a file that is mapped into memory count as memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from _common import child, head, row
from safetensors.torch import save_file

from re_llm.model import AdapterOptions, LoraOptions, ReLlmConfig
from re_llm.model.convert.checkpoint import laid_out
from re_llm.model.convert.config import released_config
from re_llm.model.convert.names import LORA_TARGETS, Layout
from re_llm.model.sizes import AUDEERING_OUTPUTS, audeering_config, qwen_7b_config, whisper_large_v2_config
from re_llm.model.storage import own_weights

REPEATS = 5
SHARDS = 4
# The published widths of the encoders and a narrower LLM, with fewer layers.
LLM = {
    "hidden_size": 1024, "intermediate_size": 2752, "num_hidden_layers": 5, "num_attention_heads": 16,
    "num_key_value_heads": 16, "vocab_size": 16_000,
}  # fmt: skip

WORK = """
import resource, sys, time
from pathlib import Path
{imports}

def peak():
    status = Path("/proc/self/status")  # ru_maxrss begins at what the parent had when it started this process
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])

before, begun = peak(), time.process_time()
{work}
print(time.process_time() - begun, before, peak())
"""
OURS = WORK.format(
    imports="from re_llm.model.convert.run import convert\nimport re_llm.model.modeling, peft",
    work="convert(sys.argv[1], sys.argv[2], emotion_encoder=sys.argv[3], progress=False)",
)
PLAIN = WORK.format(
    imports="import torch\nfrom safetensors.torch import load_file, save_file",
    work="""
Path(sys.argv[2]).mkdir()
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix in (".bin", ".safetensors"):
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        save_file({name: value.contiguous() for name, value in held.items()}, f"{sys.argv[2]}/{path.stem}.safetensors")
""",
)


def released(folder: Path) -> Path:
    """The checkpoint as `model.safetensors`; returns the folder of its emotion encoder, which lies beside it."""
    text, whisper, emotion = qwen_7b_config(), whisper_large_v2_config(), audeering_config()
    for name, value in LLM.items():
        setattr(text, name, value)
    whisper.encoder_layers, emotion.num_hidden_layers = 2, 1
    targets = tuple(layer for name in ("c_attn", "c_proj", "w1", "w2") for layer in LORA_TARGETS[name])
    config = ReLlmConfig(
        text_config=text, speech_config=whisper, emotion_config=emotion, emotion_outputs=AUDEERING_OUTPUTS,
        adapter=AdapterOptions(conv_layers=1), dtype="bfloat16",
    )  # fmt: skip
    model = laid_out(config, LoraOptions(targets=targets))
    layout = Layout("qwen_model.model.", "w2v2cat_adapter.")
    shapes: dict[str, list[int]] = {}
    for name, value in own_weights(model, model.state_dict(), {}).items():
        piece = layout.find(name)
        shape = list(value.shape)
        shapes[piece.name] = [3 * shape[0], *shape[1:]] if piece.part is not None else shape
    for name, value in model.language_model.state_dict().items():
        if ".lora_" in name:
            piece = layout.find_lora("base_model.model." + name.replace(".default.", "."))
            shape = list(value.shape)
            shapes[piece.name] = [3 * shape[0], *shape[1:]] if piece.part is not None else shape
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=draw).bfloat16() for name, shape in shapes.items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(released_config(config, "benchmark")))
    encoder = folder.with_name("encoder")
    emotion.save_pretrained(encoder)
    return encoder


def in_other_form(source: Path, folder: Path, kind: str, count: int) -> Path:
    """The same checkpoint in `count` files of a kind, `bin` or `safetensors`."""
    from safetensors.torch import load_file

    tensors = load_file(source / "model.safetensors")
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    stem = "pytorch_model" if kind == "bin" else "model"
    placed: dict[str, str] = {}
    names = list(tensors)
    for i in range(count):
        part = {name: tensors[name] for name in names[i * len(names) // count : (i + 1) * len(names) // count]}
        file = f"{stem}.{kind}" if count == 1 else f"{stem}-{i + 1:05}-of-{count:05}.{kind}"
        torch.save(part, folder / file) if kind == "bin" else save_file(part, folder / file)
        placed |= dict.fromkeys(part, file)
    if count > 1:
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def measure(code: str, source: Path, encoder: Path) -> tuple[float, float]:
    """Seconds of the processor that the work took, and bytes of memory that it took beyond its imports."""
    with tempfile.TemporaryDirectory(dir=source.parent) as room:
        done = child([sys.executable, "-c", code, str(source), f"{room}/out", str(encoder)])
    seconds, before, after = map(float, done.stdout.split()[-3:])
    return seconds, after - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    repeats = parser.parse_args().repeats
    head("Conversion of a released checkpoint")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        encoder = released(root / "whole")
        size = (root / "whole" / "model.safetensors").stat().st_size / 1e6
        print(f"{size:.0f} MB in bfloat16; MB/s of the weights, MB of memory beyond the imports\n")
        for kind in ("safetensors", "bin"):
            for count in (1, SHARDS):
                source = in_other_form(root / "whole", root / f"{kind}-{count}", kind, count)
                found: dict[str, list[tuple[float, float]]] = {"convert": [], "plain copy": []}
                for _ in range(repeats):  # by turns, so that other work on the machine meets both
                    found["convert"].append(measure(OURS, source, encoder))
                    found["plain copy"].append(measure(PLAIN, source, encoder))
                rates = {}
                for name, runs in found.items():
                    rates[name] = row(f"{kind} x {count}: {name}", [size / seconds for seconds, _ in runs], unit="MB/s")
                    row("  its memory", [peak for _, peak in runs], unit="MB", scale=1e-6)
                ratios = [a[0] / b[0] for a, b in zip(found["plain copy"], found["convert"], strict=True)]
                print(f"  speed of the plain copy reached: {statistics.median(ratios):.2f}\n")


if __name__ == "__main__":
    main()
