"""A training step whose rows lack what they begin with, whose keys and values are kept, beside one of whole rows.

Sizes of the small model (SmolLM2-135M, Whisper-base, its adapter and LoRA; random weights), bfloat16, kept states of 32
recordings of 2 to 5.5 s, with the prompts of its recipe: 27, 48 and 23 tokens in front of the speech. Forwards,
backwards, AdamW; the two take turns.
"""

from __future__ import annotations

import argparse
from statistics import median

from _common import head, spent

import torch  # isort: skip - after _common, which sets the environment
from transformers import LlamaConfig, WhisperConfig

from re_llm.model import AdapterOptions, LoraOptions, ReLlmConfig, ReLlmForConditionalGeneration
from re_llm.model.outputs import EncodedAudio
from re_llm.model.trainable import LEARNED
from re_llm.recipe.stages import StageOptions
from re_llm.train.collate import Collator
from re_llm.train.examples import Example
from re_llm.train.objective import Objective
from re_llm.train.openings import Openings
from re_llm.train.rows import Row

ROWS, BEHIND = 32, 6
PROMPTS = ((27, 14), (48, 6), (23, 12))  # tokens in front of the speech, and of the answer
SHARES = (15, 6, 11)  # rows of each: 45, 20 and 35 %
VOCABULARY, SAMPLE = 49_152, 8192
LOSSES = {"response_ce": 1.0, "adapter_ctc": 0.3}


def build() -> ReLlmForConditionalGeneration:
    text = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    speech = WhisperConfig(
        encoder_layers=1, decoder_layers=1, d_model=512, encoder_attention_heads=8, decoder_attention_heads=8
    )
    config = ReLlmConfig(
        text_config=text, speech_config=speech, emotion_config=None, speech_window="trimmed", ctc_blank=True,
        adapter=AdapterOptions(conv_layers=2, kernel_size=3, bottleneck=512), speech_token_id=VOCABULARY,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = ReLlmForConditionalGeneration(config)
    model.add_lora(LoraOptions(r=8, alpha=8, dropout=0.0, targets=("q_proj", "k_proj", "v_proj", "o_proj")))
    torch.set_default_dtype(torch.float32)
    model.set_trainable(LEARNED, dtype=torch.float32)
    return model.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    head("Openings: what rows begin with, read once")
    torch.manual_seed(0)
    model = build()
    stage = StageOptions(losses=LOSSES, lr=1e-4, ctc_sample=SAMPLE)
    openings = Openings.of(model, stage)
    objective = Objective(model, stage, openings=openings)
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, VOCABULARY, (length,), generator=draw).tolist())

    lengths = torch.randint(100, 275, (ROWS,), generator=draw)  # states, 50 a second
    speech = EncodedAudio(torch.randn(ROWS, int(lengths.max()), 512), lengths, None)
    before, behind = [ids(length) for length, _ in PROMPTS], ids(BEHIND)
    asked = [number for number, share in enumerate(SHARES) for _ in range(share)]
    rows = [
        Row(i, before[a], behind, ids(PROMPTS[a][1]), ids(8), (), (), has_teacher=False) for i, a in enumerate(asked)
    ]
    examples = [Example(str(i), "", 0.0, 1.0, "", {}, None, -100, None) for i in range(ROWS)]
    counts = [model.config.adapter.token_count(n) for n in lengths.tolist()]
    batches = {
        name: Collator(
            examples, lambda *_: {"speech": speech}, lambda _: counts, speech_token=VOCABULARY, pad_token=0,
            teacher=False, apart=apart,
        )(rows)
        for name, apart in (("whole rows", False), ("openings kept", True))
    }  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.0)  # the same weights for both

    def step(name: str) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(batches[name], LOSSES)
        loss.total.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.terms["response_ce"].detach())

    values = {name: step(name) for name in batches}
    taken: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(repeats):
        for name, kept in taken.items():
            kept.append(spent(lambda name=name: step(name)))
    print("| rows | positions | response_ce | s a step |\n|---|---|---|---|")
    for name, kept in taken.items():
        print(f"| {name} | {batches[name]['input_ids'].numel()} | {values[name]:.4f} | {median(kept):.2f} |")
    whole, kept = (median(each) for each in taken.values())
    print(f"\n{whole / kept:.2f} times; processor time of {torch.get_num_threads()} threads, medians of {repeats}")


if __name__ == "__main__":
    main()
